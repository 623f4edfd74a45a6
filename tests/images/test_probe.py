"""The probe as a whole: what it says of good images, and that bad ones get the one error meant for them."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image, ImageOps

from app.errors import UndecodableImageError, UnsupportedMediaTypeError
from app.images.probe import probe
from tests.fakes.exif import ExifFacts, exif_block
from tests.fakes.hostile_images import HostileImage, hostile_images, tolerated_images
from tests.fakes.images import Sample, encoded, jpeg, samples
from tests.fakes.memory_body import MemoryBody

PILLOW_READS = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"}
INTERNAL_WORDS = re.compile(r"struct|Traceback|app\.|offset|None|b'|<|\{")


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.name)
def test_type_size_and_frames_are_told_for_every_format(sample: Sample) -> None:
    found = probe(MemoryBody(sample.data))

    assert (found.content_type, found.width, found.height, found.frames) == (
        sample.content_type,
        sample.width,
        sample.height,
        sample.frames,
    )
    assert found.extension == {"image/jpeg": "jpg"}.get(sample.content_type, sample.content_type[6:])


@pytest.mark.parametrize(
    "sample", [sample for sample in samples() if sample.content_type in PILLOW_READS], ids=lambda sample: sample.name
)
def test_samples_are_what_pillow_sees(sample: Sample) -> None:
    with Image.open(io.BytesIO(sample.data)) as image:
        upright = ImageOps.exif_transpose(image)

        assert upright.size == (sample.width, sample.height)
        assert getattr(image, "n_frames", 1) == sample.frames


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_orientation_and_upright_size_are_those_of_pillow(kind: str, orientation: int) -> None:
    data = encoded(kind, 40, 24, exif=exif_block(ExifFacts(orientation=orientation)))
    with Image.open(io.BytesIO(data)) as image:
        expected = image.getexif().get(0x0112, 1), ImageOps.exif_transpose(image).size

    found = probe(MemoryBody(data))

    assert (found.orientation, (found.width, found.height)) == expected


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF"])
@pytest.mark.parametrize("size", [(1, 1), (17, 3), (130, 257)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_size_and_frames_are_those_of_pillow(kind: str, size: tuple[int, int], frames: int) -> None:
    data = encoded(kind, *size, frames=frames, seed=frames)
    with Image.open(io.BytesIO(data)) as image:
        expected = image.size, getattr(image, "n_frames", 1)

    found = probe(MemoryBody(data))

    assert ((found.width, found.height), found.frames) == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_read(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (9, 5)).save(out, "PNG")

    found = probe(MemoryBody(out.getvalue()))

    assert (found.width, found.height) == (9, 5)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_read(mode: str, progressive: bool) -> None:
    out = io.BytesIO()
    Image.new(mode, (19, 15)).save(out, "JPEG", progressive=progressive, restart_marker_blocks=1, comment=b"hello")

    found = probe(MemoryBody(out.getvalue()))

    assert (found.width, found.height) == (19, 15)
    assert (found.scans > 1) == progressive


@pytest.mark.parametrize(("options", "mode"), [({"lossless": True}, "RGBA"), ({}, "RGBA"), ({"quality": 1}, "RGB")])
def test_every_kind_of_webp_is_read(options: dict[str, int], mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (19, 15), (9, 9, 9, 9)[: len(mode)]).save(out, "WEBP", **options)

    found = probe(MemoryBody(out.getvalue()))

    assert (found.width, found.height) == (19, 15)


@pytest.mark.parametrize("hostile", hostile_images(), ids=lambda hostile: hostile.name)
def test_hostile_image_gets_its_error(hostile: HostileImage) -> None:
    body = MemoryBody(hostile.data)

    with pytest.raises(hostile.error) as refusal:
        probe(body)

    assert type(refusal.value) is hostile.error
    assert refusal.value.detail.endswith(".")
    assert not INTERNAL_WORDS.search(refusal.value.detail)


@pytest.mark.parametrize(("name", "data", "content_type"), tolerated_images(), ids=lambda value: str(value)[:40])
def test_oddity_outside_of_the_image_is_tolerated(name: str, data: bytes, content_type: str) -> None:
    found = probe(MemoryBody(data))

    assert found.content_type == content_type


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.name)
def test_every_shorter_version_of_an_image_is_refused(sample: Sample) -> None:
    for size in range(len(sample.data)):
        with pytest.raises((UndecodableImageError, UnsupportedMediaTypeError)):
            probe(MemoryBody(sample.data[:size]))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"II*\0" + bytes(20), "TIFF"),
        (b"BM" + bytes(20), "BMP"),
        (b"8BPS" + bytes(20), "Photoshop"),
        (b"PK\x03\x04", "ZIP"),
        (b"<svg/>", "SVG"),
        (b"%!PS-Adobe", "EPS"),
        (b"<html>", "web page"),
        (b"", "empty"),
        (b"hello", "no image that is known"),
    ],
)
def test_refusal_names_what_was_recognised_and_what_is_accepted(data: bytes, word: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=word) as refusal:
        probe(MemoryBody(data))

    assert "Accepted are JPEG, PNG, WebP, GIF, AVIF and HEIC photos." in refusal.value.detail


def test_reader_is_closed_after_success_and_after_failure() -> None:
    good, bad = MemoryBody(jpeg(8, 8, seed=1)), MemoryBody(b"%PDF-")

    probe(good)
    with pytest.raises(UnsupportedMediaTypeError):
        probe(bad)

    assert [reader.closed for body in (good, bad) for reader in body.readers] == [True, True]


def test_body_that_yields_less_than_it_states_is_cut_off() -> None:
    class ShortBody(MemoryBody):
        @property
        def size_bytes(self) -> int:
            return super().size_bytes + 100

    data = jpeg(64, 48, seed=1)

    with pytest.raises(UndecodableImageError):
        probe(ShortBody(data[:-10]))


def test_reader_that_returns_little_at_a_time_is_read_to_the_end() -> None:
    class SlowReader(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size) if size and size > 0 else 7)

    class SlowBody(MemoryBody):
        def open(self) -> io.BytesIO:
            return SlowReader(jpeg(64, 48, seed=1))

    found = probe(SlowBody(jpeg(64, 48, seed=1)))

    assert (found.width, found.height) == (64, 48)


def test_photo_of_a_wanted_size_is_deterministic_and_exact() -> None:
    first = jpeg(320, 240, seed=5, size_bytes=50_000, exif=ExifFacts())
    second = jpeg(320, 240, seed=5, size_bytes=50_000, exif=ExifFacts())

    assert first == second
    assert len(first) == 50_000
    assert probe(MemoryBody(first)).camera == "Fujifilm X-T5"
