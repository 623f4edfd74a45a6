"""Byte ranges (RFC 9110 §14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RangeNotSatisfiableError
from app.http.ranges import ByteRange, parse_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 100)),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-1000000", (0, 100)),
        ("bytes=99-", (99, 1)),
        ("bytes=-1", (99, 1)),
        ("bytes=-100", (0, 100)),
        ("bytes=-5000", (0, 100)),
        (f"bytes=-{'9' * 5000}", (0, 100)),
        (f"bytes=50-{'9' * 5000}", (50, 50)),
        (f"bytes={'0' * 50}5-7", (5, 3)),
        (" Bytes = 10 - 19 ", (10, 10)),
    ],
)
def test_one_range_is_served(header: str, span: tuple[int, int]) -> None:
    assert parse_range(header, 100) == ByteRange(*span)


@pytest.mark.parametrize(
    "header",
    [
        None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=0-1,5-6", "bytes=0-1,", "lines=0-1",
        "bytes=0x1-2", "bytes=+1-2", "bytes=1_0-20", "bytes=\u0661-\u0662", "bytes=0-1;q=1", "bytes:0-1",
        "bytes=--1", "\x00",
    ],
)  # fmt: skip
def test_what_is_no_single_range_of_bytes_is_answered_with_the_whole(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", f"bytes={'9' * 5000}-"])
def test_a_range_without_a_byte_is_refused_with_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as refused:
        parse_range(header, 100)

    assert refused.value.size_bytes == 100


def test_nothing_of_an_empty_representation_can_be_asked_for() -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse_range("bytes=0-", 0)


def test_content_range_names_first_last_and_size() -> None:
    assert ByteRange(10, 10).content_range(100) == "bytes 10-19/100"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50))
def test_a_range_gives_what_slicing_gives(first: int, last: int, size_bytes: int) -> None:
    content = bytes(range(size_bytes))
    try:
        span = parse_range(f"bytes={first}-{last}", size_bytes)
    except RangeNotSatisfiableError:
        assert content[first : last + 1] == b""
        return

    if span is None:
        assert last < first
    else:
        assert content[span.start : span.start + span.length] == content[first : last + 1]
        assert span.length > 0
