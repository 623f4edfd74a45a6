"""What signers take: one way to write a path, an end that is an instant."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from app.cdn.base import SignedUrl, check_path, epoch_of, instant_of


@pytest.mark.parametrize("key", ["a", "o/ab/cd.jpg", "ä/é.png", "a b*c!d'(e)", "a~b", "100%", "a?b#c&d=e", "日本"])
def test_each_key_has_a_path_in_canonical_form(key: str) -> None:
    check_path(f"/{quote(key)}")


@pytest.mark.parametrize(
    "path",
    [
        *("", "a", "//a", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a b", "/a?b", "/a#b", "/a*", "/a~b\n"),
        *("/%2e%2e/a", "/%2E%2E/a", "/a%2Fb", "/a%2fb", "/%41", "/a%", "/a%4", "/a%zz", "/a%00", "/a%0A", "/a%7F"),
        *("/ä", "http://a/b", "/a\\b", "/a%e4", "/" + "a" * 2048),
    ],
    ids=repr,
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="canonical"):
        check_path(path)


def test_an_end_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        epoch_of(datetime(2026, 1, 1))  # noqa: DTZ001  # what is tested


def test_an_end_is_rounded_down_to_a_second() -> None:
    assert instant_of(epoch_of(datetime(2026, 1, 1, 0, 0, 5, 999_999, UTC))) == datetime(2026, 1, 1, 0, 0, 5, 0, UTC)


def test_a_signed_url_does_not_show_its_signature() -> None:
    assert "secret" not in repr(SignedUrl("https://cdn/a?token=secret", datetime.now(UTC)))
