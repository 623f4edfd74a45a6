"""Thumbhash, held against what the published implementation (thumbhash 0.1.1 of npm) makes of the same pixels."""

from __future__ import annotations

import base64

import pytest

from app.images.thumbhash import MAX_SIDE, thumbhash

PUBLISHED = {
    (1, 1, False): "AAgCBwAAAAAAAAAAAAAAAAAAAAAAAAAA",
    (2, 3, False): "A+gFDQZ1CoR4i4iHiIe4B44ge/hY",
    (33, 77, False): "HggCCwRXMGgWWEhk70JcB1s=",
    (77, 33, False): "HvgBC4IDxCY5KkVIWE8q9ZA=",
    (100, 100, False): "HwgCBwIh0ThSKdMMMnNZL4heo0v4eHAO",
    (64, 48, False): "H/gBDYICnCJVNTaGNWR3VLOLf5XQ",
    (48, 64, False): "H/gBDQKTJgaFQzqSVXZoZPk3nEVA",
    (100, 10, False): "XwgCGYIwIgYzFzSFd39ssJ4=",
    (10, 100, False): "XvgFGQQgVAZTlVWE/mZilgU=",
    (40, 30, True): "H/iBDIIHwFSZhJZYOb/Y5bR/QUoXRQdlBw==",
    (30, 40, True): "3veBDAIHloBFyXeUpu+zVvQdkWQCejAXBw==",
    (100, 99, True): "HwiCBYAHFNFlOT9UeomHfwn3RAVzc3Q0RQ==",
}


def pattern(width: int, height: int, *, see_through: bool) -> bytes:
    """Return pixels without any symmetry, so that no sum is nothing but rounding."""
    return bytes(
        value
        for y in range(height)
        for x in range(width)
        for value in (
            (x * x * 7 + y * 3) % 256,
            (x * 5 + y * y * 11) % 256,
            (x * y * 13 + x) % 256,
            (x * 9 + y * y) % 256 if see_through else 255,
        )
    )


@pytest.mark.parametrize(("picture", "expected"), PUBLISHED.items(), ids=str)
def test_it_is_what_the_published_implementation_makes(picture: tuple[int, int, bool], expected: str) -> None:
    width, height, see_through = picture

    assert thumbhash(width, height, pattern(width, height, see_through=see_through)) == expected


def test_nothing_but_transparency_has_one_too() -> None:
    assert thumbhash(8, 8, bytes(8 * 8 * 4)) == "AAiCBQAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.parametrize("see_through", [False, True], ids=["opaque", "see-through"])
@pytest.mark.parametrize("size", [(1, 100), (100, 1), (64, 64), (7, 9), (100, 75)], ids=str)
def test_it_fits_into_its_column(size: tuple[int, int], *, see_through: bool) -> None:
    made = thumbhash(*size, pattern(*size, see_through=see_through))

    assert len(made) <= 36
    assert len(base64.b64decode(made, validate=True)) <= 25


@pytest.mark.parametrize(
    ("width", "height", "length"),
    [(MAX_SIDE + 1, 1, (MAX_SIDE + 1) * 4), (1, MAX_SIDE + 1, (MAX_SIDE + 1) * 4), (0, 1, 0), (2, 2, 15), (2, 2, 17)],
)
def test_a_picture_of_another_size_than_said_is_refused(width: int, height: int, length: int) -> None:
    with pytest.raises(ValueError, match="at most 100 by 100"):
        thumbhash(width, height, bytes(length))
