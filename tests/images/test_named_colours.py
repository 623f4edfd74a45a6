"""Colours that a file names by number, without a profile: read from its header, and converted like a profile's."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Callable

import pytest
import pyvips
from PIL import Image, ImageCms

from app.images.colour import named_colours, to_srgb
from app.images.formats import read_colours
from app.images.jobs import RenderJob
from app.images.limits import ImageLimits
from app.images.presets import Quality
from app.images.rendering import render
from app.images.structure import NamedColours, Source
from tests.fakes.hostile_images import hostile_images
from tests.fakes.images import box, cicp, encoded, heif, ispe, jpeg, nclx, png, png_chunk
from tests.fakes.photos import heic, profile, saved

COLORS = [(200, 100, 50), (120, 130, 140), (60, 180, 90), (255, 255, 255), (0, 0, 0)]
SRGB, P3, BT2020_PQ, BT2020_HLG = (1, 13), (12, 13), (9, 16), (9, 18)
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/heic", "image/heif")
IN_FILE = nclx(*SRGB)
"""What Pillow and pillow-heif write into every file without a profile."""


def in_srgb(color: tuple[int, int, int]) -> tuple[int, ...]:
    """Return what a colour of Display P3 is in sRGB by Pillow's colour management, which is LittleCMS."""
    seen = ImageCms.profileToProfile(
        Image.new("RGB", (1, 1), color),
        ImageCms.ImageCmsProfile(io.BytesIO(profile("p3"))),
        ImageCms.createProfile("sRGB"),
    )
    assert seen is not None
    found = seen.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


def avif(image: Image.Image, named: tuple[int, int], icc: bytes | None = None) -> bytes:
    return boxed(saved(image, "AVIF", quality=100, icc=icc), named, icc)


def heic_named(image: Image.Image, named: tuple[int, int], icc: bytes | None = None) -> bytes:
    return boxed(heic(image, icc=icc), named, icc)


def boxed(data: bytes, named: tuple[int, int], icc: bytes | None) -> bytes:
    """Return a file with other colours in the box that names them, which a profile does not replace."""
    assert data.count(IN_FILE) == 1, icc
    return data.replace(IN_FILE, nclx(*named))


def png_named(image: Image.Image, named: tuple[int, int], icc: bytes | None = None) -> bytes:
    data = saved(image, "PNG", icc=icc)
    return data[:33] + cicp(*named) + data[33:]


Maker = Callable[..., bytes]
MAKERS: dict[str, Maker] = {"image/avif": avif, "image/heic": heic_named, "image/png": png_named}


def shown(data: bytes, content_type: str) -> tuple[int, ...]:
    """Return the colour that a picture of one colour is shown in."""
    job = RenderJob(
        content_type=content_type,
        width=1000,
        height=1000,
        size_bytes=len(data),
        outputs=(),
        quality=Quality(),
        describes=True,
    )
    descriptor = os.memfd_create("original")
    try:
        os.write(descriptor, data)
        color = render(descriptor, job).dominant_color
    finally:
        os.close(descriptor)
    assert color is not None
    return tuple(bytes.fromhex(color[1:]))


def read(data: bytes, content_type: str, limits: ImageLimits | None = None) -> NamedColours | None:
    return read_colours(Source(io.BytesIO(data), len(data)), content_type, limits or ImageLimits())


@pytest.mark.parametrize("color", COLORS, ids=str)
@pytest.mark.parametrize("content_type", MAKERS)
def test_display_p3_that_is_named_by_number_is_shown_as_with_its_profile(
    content_type: str, color: tuple[int, int, int]
) -> None:
    image = Image.new("RGB", (96, 64), color)

    found = shown(MAKERS[content_type](image, P3), content_type)

    assert found == pytest.approx(in_srgb(color), abs=2)


@pytest.mark.parametrize("content_type", MAKERS)
@pytest.mark.parametrize("named", [SRGB, (2, 2), (1, 1), (12, 16), BT2020_PQ, BT2020_HLG], ids=str)
def test_other_colours_that_are_named_change_nothing(content_type: str, named: tuple[int, int]) -> None:
    image = Image.new("RGB", (96, 64), COLORS[0])

    assert shown(MAKERS[content_type](image, named), content_type) == pytest.approx(COLORS[0], abs=2)


def test_the_expected_colours_are_those_of_the_primaries() -> None:
    # By hand: to linear light, with the matrix of P3 (D65) to XYZ, that from XYZ to sRGB, and back (CSS Color 4).
    assert in_srgb((200, 100, 50)) == pytest.approx((215, 93, 32), abs=1)


@pytest.mark.parametrize("content_type", ["image/avif", "image/heic"])
def test_a_profile_in_boxes_goes_before_what_is_named(content_type: str) -> None:
    properties = (box(b"colr", b"prof" + profile("srgb")), nclx(*P3))
    named = read(heif(properties=properties), content_type)
    image = flat(COLORS[0], icc=profile("srgb"))

    assert named == NamedColours(*P3, outranks_profile=False)
    assert to_srgb(image, named).getpoint(1, 1) == pytest.approx(list(COLORS[0]), abs=1)


def test_what_a_png_names_goes_before_its_profile() -> None:
    image = Image.new("RGB", (96, 64), COLORS[0])

    assert shown(png_named(image, SRGB, icc=profile("p3")), "image/png") == COLORS[0]
    assert shown(png_named(image, P3, icc=profile("srgb")), "image/png") == pytest.approx(in_srgb(COLORS[0]), abs=2)


def test_a_profile_counts_where_a_png_names_what_is_not_converted() -> None:
    image = Image.new("RGB", (96, 64), COLORS[0])

    found = shown(png_named(image, BT2020_PQ, icc=profile("p3")), "image/png")

    assert found == pytest.approx(in_srgb(COLORS[0]), abs=2)


def flat(color: tuple[int, ...], *, icc: bytes = b"", layout: str = "uchar", space: str = "srgb") -> pyvips.Image:
    image = (pyvips.Image.black(4, 4, bands=len(color)) + list(color)).cast(layout).copy(interpretation=space)
    if icc:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return image


def test_every_depth_is_converted_and_alpha_is_left_alone() -> None:
    named = NamedColours(*P3, outranks_profile=True)
    deep = tuple(257 * level for level in (*COLORS[0], 90))

    assert to_srgb(flat(deep, layout="ushort", space="rgb16"), named).getpoint(1, 1) == pytest.approx(
        [*in_srgb(COLORS[0]), 90], abs=2
    )


def test_grey_is_the_same_in_all_colours_that_can_be_named(caplog: pytest.LogCaptureFixture) -> None:
    grey = flat((77, 90), space="b-w", icc=profile("srgb"))

    with caplog.at_level(logging.WARNING):
        image = to_srgb(grey, NamedColours(*P3, outranks_profile=True))

    assert image.getpoint(1, 1) == [77, 90]
    assert caplog.messages == []  # none of RGB was tried


@pytest.mark.parametrize("content_type", ["image/avif", "image/heic", "image/heif"])
def test_the_first_box_of_the_primary_picture_that_names_colours_counts(content_type: str) -> None:
    both = heif(properties=(box(b"colr", b"prof" + bytes(200)), nclx(*P3), nclx(*SRGB)))
    properties = box(b"ipco", ispe((64, 48)) + nclx(*P3)) + box(b"ipma", struct.pack(">IHBB", 1, 1, 1, 1), version=0)
    others = heif(items=(box(b"iprp", properties), b"", b""))

    assert read(both, content_type) == NamedColours(*P3, outranks_profile=False)
    assert read(others, content_type) is None
    assert read(heif(), content_type) is None


@pytest.mark.parametrize(
    "data",
    [
        png(),
        png(before=cicp(*P3, matrix=9)),
        png(before=cicp(*P3, full_range=0)),
        png(before=png_chunk(b"cICP", b"\x0c\x0d\0")),
        png(after=cicp(*P3)),
    ],
    ids=["none", "matrix", "narrow", "short", "late"],
)
def test_a_png_that_names_no_colours_of_photos_names_none(data: bytes) -> None:
    assert read(data, "image/png") is None


def test_a_png_names_its_colours_once_and_before_its_pixels() -> None:
    gamma = png_chunk(b"gAMA", (45455).to_bytes(4))

    found = read(png(before=gamma + cicp(*P3) + cicp(*SRGB)), "image/png")

    assert found == NamedColours(*P3, outranks_profile=True)


def test_only_so_much_of_a_header_is_read() -> None:
    few = ImageLimits(max_segments=20)
    boxes, chunks = box(b"free") * 21, png_chunk(b"tEXt", b"a\0b") * 21

    assert read(heif(properties=(nclx(*P3),), items=(b"", b"", boxes)), "image/heic", few) is None
    assert read(png(before=chunks + cicp(*P3)), "image/png", few) is None


def test_as_many_pixels_as_the_server_allows_may_have_names_for_their_colours() -> None:
    descriptor = os.memfd_create("original")
    os.write(descriptor, heif((9000, 8000), properties=(nclx(*P3),)))

    assert named_colours(descriptor, "image/heic") == NamedColours(*P3, outranks_profile=False)
    os.close(descriptor)


@pytest.mark.parametrize("content_type", TYPES)
def test_a_broken_file_names_no_colours_and_raises_nothing(content_type: str) -> None:
    named = {"image/png": png(before=cicp(*P3)), "image/avif": heif(properties=(nclx(*P3),))}
    files = [image.data for image in hostile_images()]
    files += [data[:cut] for data in named.values() for cut in range(len(data))]

    for data in files:
        read(data, content_type)

    assert read(b"", content_type) is None
    assert read(heif(properties=(box(b"colr", b"nclx\0"),)), content_type) is None


def test_types_without_numbers_are_not_looked_into() -> None:
    named = [png(before=cicp(*P3)), heif(properties=(nclx(*P3),))]

    assert [kind for kind in TYPES if any(read(data, kind) for data in named)] == [
        "image/png",
        "image/avif",
        "image/heic",
        "image/heif",
    ]
    assert read(jpeg(16, 16, seed=1), "image/jpeg") is None
    assert read(encoded("WEBP", 16, 16), "image/webp") is None
