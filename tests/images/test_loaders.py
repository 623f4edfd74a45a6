"""Loaders: chosen by the media type, never by what a file looks like, and all others are shut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import pyvips

from app.errors import UndecodableImageError
from app.images.loaders import full_size, open_image, prepare_libvips
from tests.fakes.images import encoded, gif, gif_frame, gif_part, jpeg

TYPES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/avif": "AVIF",
}


@contextmanager
def descriptor_of(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("original")
    os.write(descriptor, data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("stored", TYPES.values())
@pytest.mark.parametrize("said", TYPES)
def test_only_the_loader_of_the_media_type_looks_at_a_file(said: str, stored: str) -> None:
    with descriptor_of(encoded(stored, 64, 48)) as descriptor:
        if TYPES[said] == stored:
            assert full_size(descriptor, said, most_pixels=64 * 48) == (64, 48)
        else:
            with pytest.raises(pyvips.Error):
                full_size(descriptor, said, most_pixels=64 * 48)


@pytest.mark.parametrize("said", ["image/tiff", "image/svg+xml", "image/heic", "image/jxl", "", "jpegload_source"])
def test_a_type_that_is_not_allowed_has_no_loader(said: str) -> None:
    with (
        descriptor_of(encoded("TIFF", 64, 48)) as descriptor,
        pytest.raises(UndecodableImageError, match="cannot be decoded here"),
    ):
        full_size(descriptor, said, most_pixels=64 * 48)


LOOKS_INTO_ALL = """
import sys, pyvips
from app.images.loaders import prepare_libvips
if sys.argv[1] == "prepared":
    prepare_libvips()
data = sys.stdin.buffer.read()
for loader in ("", "tiffload_buffer", "svgload_buffer"):
    try:
        image = pyvips.Operation.call(loader, data) if loader else pyvips.Image.new_from_buffer(data, "")
        image.avg()
    except pyvips.Error:
        continue
    print("opened")
"""


@pytest.mark.parametrize(("state", "expected"), [("prepared", 0), ("as it is", 2)])
@pytest.mark.parametrize("kind", ["TIFF", "SVG"])
def test_libvips_opens_nothing_by_itself(kind: str, state: str, expected: int) -> None:
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'
    data = drawing if kind == "SVG" else encoded(kind, 8, 8)
    command = [sys.executable, "-c", LOOKS_INTO_ALL, state]

    answer = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)

    assert answer.stdout.decode().split() == ["opened"] * expected


def test_libvips_keeps_nothing_and_uses_one_thread() -> None:
    prepare_libvips()

    assert pyvips.cache_get_max() == 0
    assert pyvips.concurrency_get() == 1


@pytest.mark.parametrize(
    ("scale", "margin", "expected"),
    [
        (1, 1.5, (800, 600)),
        (1, 1.0, (800, 600)),
        (0.5, 1.5, (800, 600)),
        (0.5, 1.0, (400, 300)),
        (0.3, 1.5, (400, 300)),
        (0.3, 1.0, (400, 300)),
        (0.1, 1.5, (200, 150)),
        (0.1, 1.0, (100, 75)),
        (0.01, 1.5, (100, 75)),
    ],
)
def test_a_jpeg_is_opened_no_larger_than_needed(scale: float, margin: float, expected: tuple[int, int]) -> None:
    with descriptor_of(jpeg(800, 600, seed=1)) as descriptor:
        image = open_image(descriptor, "image/jpeg", size=(800, 600), scale=scale, margin=margin)

        assert (image.width, image.height) == expected
        assert image.width >= 800 * min(scale, 1 / 8)


@pytest.mark.parametrize("margin", [1.0, 1.5])
@pytest.mark.parametrize("content_type", TYPES)
def test_what_is_opened_is_never_smaller_than_needed(content_type: str, margin: float) -> None:
    with descriptor_of(encoded(TYPES[content_type], 300, 200)) as descriptor:
        for percent in range(5, 101, 5):
            scale = percent / 100
            image = open_image(descriptor, content_type, size=(300, 200), scale=scale, margin=margin)

            assert image.width >= round(300 * scale)
            assert image.height >= round(200 * scale)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/webp"])
@pytest.mark.parametrize("size", [(2000, 2), (3, 900), (31, 31), (1, 1)], ids=str)
def test_a_narrow_photo_is_opened_whole(content_type: str, size: tuple[int, int]) -> None:
    with descriptor_of(encoded(TYPES[content_type], *size)) as descriptor:
        image = open_image(descriptor, content_type, size=size, scale=0.01, margin=1.0)

        assert (image.width, image.height) == size


def test_an_animation_is_opened_as_its_first_picture() -> None:
    for content_type in ("image/gif", "image/webp", "image/png", "image/avif"):
        with descriptor_of(encoded(TYPES[content_type], 40, 30, frames=4)) as descriptor:
            assert full_size(descriptor, content_type, most_pixels=40 * 30) == (40, 30)


def test_a_gif_whose_first_picture_covers_its_screen_gets_no_alpha() -> None:
    for size in ((40, 30), (640, 480)):
        with descriptor_of(encoded("GIF", *size)) as descriptor:
            assert open_image(descriptor, "image/gif", size=size, scale=1, margin=1.5).bands == 3


def test_the_screen_of_a_gif_is_its_size_whatever_its_pictures_have() -> None:
    comment = b"!\xfe\3abc\0"
    covered = gif((800, 600), frames=comment + gif_frame())
    others = [(size, gif_part(size, at=(0, 0), size=(9, 9))) for size in ((3000, 40), (9000, 8000))]
    for size, data in (((800, 600), covered), *others):
        with descriptor_of(data) as descriptor:
            assert full_size(descriptor, "image/gif", most_pixels=size[0] * size[1]) == size


def test_a_gif_with_a_picture_beyond_its_screen_is_judged_by_what_is_decoded() -> None:
    with (
        descriptor_of(gif_part((9, 9), at=(0, 0), size=(2000, 1000))) as descriptor,
        pytest.raises(UndecodableImageError, match="larger than its header says"),
    ):
        full_size(descriptor, "image/gif", most_pixels=9 * 9)


@pytest.mark.parametrize("content_type", TYPES)
def test_a_picture_with_more_pixels_than_were_admitted_is_not_opened(content_type: str) -> None:
    with descriptor_of(encoded(TYPES[content_type], 64, 48)) as descriptor:
        assert full_size(descriptor, content_type, most_pixels=64 * 48) == (64, 48)
        with pytest.raises(UndecodableImageError, match="larger than its header says"):
            full_size(descriptor, content_type, most_pixels=64 * 48 - 1)
