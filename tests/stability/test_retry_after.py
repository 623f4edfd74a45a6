"""``Retry-After`` is understood in both its forms, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.stability.retry_after import parse_retry_after

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Mon, 04 May 2026 12:00:30 GMT", 30.0),
        ("Mon, 04 May 2026 12:00:30 -0000", 30.0),
        ("Mon, 04 May 2026 11:59:00 GMT", 0.0),
        ("Monday, 04-May-26 12:01:00 GMT", 60.0),
    ],
)
def test_seconds_and_dates_are_a_wait(value: str, seconds: float) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize("value", [None, "", "-1", "1.5", "soon", "1e3", "9999999999", "٣", "Mon, 99 May 2026"])
def test_what_is_neither_is_no_wait(value: str | None) -> None:
    assert parse_retry_after(value, now=NOW) is None


def test_a_date_is_compared_with_the_wall_clock_by_default() -> None:
    assert parse_retry_after("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9  # type: ignore[operator]  # None would fail the test, too
