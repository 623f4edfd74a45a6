"""Colours: to sRGB whatever is stored, and the one that stands for a photo."""

from __future__ import annotations

import pytest
import pyvips

from app.images.colour import as_rgba, dominant_color, to_srgb, without_opaque_alpha
from tests.fakes.photos import profile


def plain(color: tuple[float, ...], interpretation: str, *, layout: str = "uchar", side: int = 8) -> pyvips.Image:
    image = pyvips.Image.black(side, side, bands=len(color)) + list(color)
    return image.cast(layout).copy(interpretation=interpretation)


def with_profile(image: pyvips.Image, icc: bytes) -> pyvips.Image:
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return image


def beside(*images: pyvips.Image) -> pyvips.Image:
    return pyvips.Image.arrayjoin(list(images), across=len(images))


@pytest.mark.parametrize(
    ("color", "interpretation", "layout", "expected"),
    [
        ((10, 20, 30), "srgb", "uchar", (10, 20, 30)),
        ((10, 20, 30, 40), "srgb", "uchar", (10, 20, 30, 40)),
        ((77,), "b-w", "uchar", (77,)),
        ((77, 128), "b-w", "uchar", (77, 128)),
        ((257 * 10, 257 * 20, 257 * 30), "rgb16", "ushort", (10, 20, 30)),
        ((257 * 10, 257 * 20, 257 * 30, 257 * 40), "rgb16", "ushort", (10, 20, 30, 40)),
        ((257 * 77,), "grey16", "ushort", (77,)),
        ((257 * 77, 257 * 128), "grey16", "ushort", (77, 128)),
        ((0, 0, 0, 0), "cmyk", "uchar", (255, 255, 255)),
    ],
    ids=str,
)
def test_every_layout_becomes_eight_bits_of_srgb_or_grey(
    color: tuple[int, ...], interpretation: str, layout: str, expected: tuple[int, ...]
) -> None:
    image = to_srgb(plain(color, interpretation, layout=layout))

    assert image.format == "uchar"
    assert image.interpretation == ("srgb" if len(expected) > 2 else "b-w")
    assert image.getpoint(3, 3) == pytest.approx(list(expected), abs=1)


@pytest.mark.parametrize("layout", ["uchar", "ushort"])
def test_a_profile_is_followed_in_every_depth_and_leaves_alpha_alone(layout: str) -> None:
    step = 1 if layout == "uchar" else 257
    space = "srgb" if layout == "uchar" else "rgb16"
    stored = tuple(level * step for level in (200, 60, 40, 90))

    image = to_srgb(with_profile(plain(stored, space, layout=layout), profile("p3")))

    assert image.getpoint(3, 3) == pytest.approx([217, 42, 24, 90], abs=3)


@pytest.mark.parametrize("icc", [b"none" * 100, b""], ids=["broken", "empty"])
def test_a_profile_that_cannot_be_used_is_ignored(icc: bytes) -> None:
    assert to_srgb(with_profile(plain((200, 60, 40), "srgb"), icc)).getpoint(3, 3) == [200, 60, 40]


def test_a_profile_for_another_space_is_ignored() -> None:
    assert to_srgb(with_profile(plain((200, 60, 40), "srgb"), profile("cmyk"))).getpoint(3, 3) == [200, 60, 40]
    assert to_srgb(with_profile(plain((77,), "b-w"), profile("p3"))).getpoint(3, 3) == [77]
    red = to_srgb(with_profile(plain((0, 255, 255, 0), "cmyk"), profile("p3"))).getpoint(3, 3)
    assert red == pytest.approx([232, 0, 0], abs=12)


def test_only_alpha_that_hides_nothing_is_left_out() -> None:
    opaque, veiled = plain((1, 2, 3, 255), "srgb"), plain((1, 2, 3, 254), "srgb")

    assert without_opaque_alpha(opaque).bands == 3
    assert without_opaque_alpha(veiled).bands == 4
    assert without_opaque_alpha(beside(opaque, veiled)).bands == 4
    assert without_opaque_alpha(plain((9, 255), "b-w")).bands == 1
    assert without_opaque_alpha(plain((9, 9, 255), "srgb")).bands == 3


def test_grey_and_colours_become_four_bands() -> None:
    assert as_rgba(plain((9,), "b-w")).getpoint(1, 1) == [9, 9, 9, 255]
    assert as_rgba(plain((9, 100), "b-w")).getpoint(1, 1) == [9, 9, 9, 100]
    assert as_rgba(plain((1, 2, 3), "srgb")).getpoint(1, 1) == [1, 2, 3, 255]
    assert as_rgba(plain((1, 2, 3, 4), "srgb")).getpoint(1, 1) == [1, 2, 3, 4]


def test_the_dominant_colour_is_that_of_the_largest_part_and_not_the_mean() -> None:
    red, blue = plain((220, 20, 20), "srgb"), plain((20, 20, 220), "srgb")

    assert dominant_color(beside(red, red, blue)) == "#dc1414"
    assert dominant_color(beside(red, blue, blue)) == "#1414dc"


def test_like_colours_count_together() -> None:
    shades = [plain((level, 200, 10), "srgb") for level in (97, 98, 99)]
    other = plain((250, 250, 250), "srgb")

    assert dominant_color(beside(*shades, other, other)) == "#62c80a"


def test_what_is_transparent_has_no_colour() -> None:
    clear, red = plain((0, 255, 0, 0), "srgb"), plain((220, 20, 20, 255), "srgb")

    assert dominant_color(beside(clear, clear, red)) == "#dc1414"
    assert dominant_color(clear) == "#ffffff"


def test_a_grey_photo_has_a_grey_one() -> None:
    assert dominant_color(plain((128,), "b-w")) == "#808080"
