"""HEIC and HEIF: decoded where the extra is installed, and a clear error where it is not."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable

import pillow_heif
import pytest
import pyvips
from PIL import Image

from app.errors import UndecodableImageError
from app.images.heif import HEIF_TYPES, heif_installed, open_heif
from app.images.jobs import HeifNotInstalledError, Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.rendering import render
from tests.fakes.images import heif, picture
from tests.fakes.photos import four_fields, heic, profile

Opener = Callable[[bytes], pyvips.Image]


@pytest.fixture
def opened() -> Opener:
    def _open(data: bytes) -> pyvips.Image:
        descriptor = os.memfd_create("original")
        try:
            os.write(descriptor, data)
            return open_heif(descriptor, most_pixels=10_000)
        finally:
            os.close(descriptor)

    return _open


def job(content_type: str) -> RenderJob:
    outputs = (Output(Preset("small", 48), Format.WEBP),)
    return RenderJob(content_type=content_type, width=96, height=64, size_bytes=1, outputs=outputs, quality=Quality())


@pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 97, 200])
def test_pixels_are_right_whatever_the_decoder_pads_lines_to(width: int, opened: Opener) -> None:
    source = picture(width, 40, seed=1, noise=0)

    image = opened(heic(source))

    assert (image.width, image.height, image.bands) == (width, 40, 3)
    shown = bytes(image.write_to_memory())
    differences = [abs(one - other) for one, other in zip(shown, source.tobytes(), strict=True)]
    assert sum(differences) / len(differences) < 4


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_every_mode_keeps_its_bands_or_gets_those_of_its_colours(mode: str, bands: int, opened: Opener) -> None:
    image = opened(heic(four_fields().convert(mode)))

    assert image.bands in {bands, bands + 2}
    assert image.interpretation == ("srgb" if image.bands > 2 else "b-w")
    assert image.hasalpha() == mode.endswith("A")


def test_more_than_eight_bits_become_eight(opened: Opener) -> None:
    samples = b"".join((level * 257).to_bytes(2, "little") for level in (200, 60, 40)) * (64 * 48)
    file = pillow_heif.from_bytes("RGB;16", (64, 48), samples)
    out = io.BytesIO()
    file.save(out, quality=-1)

    image = opened(out.getvalue())

    assert image.format == "uchar"
    assert image.getpoint(30, 20) == pytest.approx([200, 60, 40], abs=6)


def test_the_primary_picture_is_shown_and_no_other(opened: Opener) -> None:
    file = pillow_heif.from_pillow(Image.new("RGB", (64, 48), (250, 0, 0)))
    file.add_from_pillow(Image.new("RGB", (32, 80), (0, 0, 250)))
    out = io.BytesIO()
    file.save(out, primary_index=1, quality=90)

    image = opened(out.getvalue())

    assert (image.width, image.height) == (32, 80)


def test_the_profile_comes_along(opened: Opener) -> None:
    assert bytes(opened(heic(four_fields(), icc=profile("p3"))).get("icc-profile-data")) == profile("p3")
    assert not opened(heic(four_fields())).get_typeof("icc-profile-data")


@pytest.mark.parametrize("content_type", HEIF_TYPES)
def test_without_the_extra_the_error_says_that_the_photo_is_fine(
    content_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.images.heif.find_spec", lambda _: None)
    descriptor = os.memfd_create("original")
    os.write(descriptor, heif())

    with pytest.raises(HeifNotInstalledError, match="stored here"):
        render(descriptor, job(content_type))

    assert not heif_installed()
    os.close(descriptor)


def test_the_extra_is_found_where_it_is() -> None:
    assert heif_installed() == (importlib.util.find_spec("pillow_heif") is not None)


def test_a_picture_with_more_pixels_than_were_admitted_is_not_decoded(opened: Opener) -> None:
    with pytest.raises(UndecodableImageError, match="larger than its header says"):
        opened(heic(picture(200, 51, seed=1)))
