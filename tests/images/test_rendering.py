"""Renditions of real photos: how large they are, what they show, and that nothing private is left in them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pyvips
from PIL import Image

from app.errors import UndecodableImageError
from app.images import rendering
from app.images.jobs import Output, Rendered, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.probe import probe
from app.images.rendering import render
from tests.fakes.hostile_images import resized_in_boxes
from tests.fakes.images import encoded, gif_frame, gif_part, jpeg
from tests.fakes.memory_body import MemoryBody
from tests.fakes.photos import HEIGHT, SECRET, WIDTH, Photo, heic, photos, saved
from tests.servers.base import skip_without

SMALL = Preset("small", 48)
LARGEST = 2500
BEST = Quality(jpeg=95, webp=95, avif=95, avif_effort=0)
ALLOWED_GROUPS = {"SourceFile", "ExifTool", "File", "Composite", "JFIF", "RIFF", "QuickTime", "Meta"}
"""Of exiftool: what the file and its container are, not what somebody wrote into it."""

TRACES = (b"Exif", b"adobe", b"8BIM", b"ICC_PROFILE", b"prof", b"EXIF", b"XMP ", SECRET.encode(), b"Fujifilm")


def rendered(
    data: bytes,
    content_type: str,
    outputs: Sequence[tuple[Preset, Format]] = (),
    *,
    quality: Quality = BEST,
    describes: bool = False,
    shrinks_early: bool = False,
) -> Rendered:
    job = RenderJob(
        content_type=content_type,
        width=LARGEST,
        height=LARGEST,
        size_bytes=len(data),
        outputs=tuple(Output(preset, image_format) for preset, image_format in outputs),
        quality=quality,
        describes=describes,
        shrinks_early=shrinks_early,
    )
    descriptor = os.memfd_create("original")
    try:
        os.write(descriptor, data)
        return render(descriptor, job)
    finally:
        os.close(descriptor)


def seen(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def sizes(result: Rendered) -> list[tuple[int, int]]:
    assert [seen(image.content).size for image in result.images] == [(i.width, i.height) for i in result.images]
    return [(image.width, image.height) for image in result.images]


@pytest.mark.parametrize("image_format", Format)
@pytest.mark.parametrize("photo", photos(), ids=lambda photo: photo.name)
def test_a_rendition_shows_the_photo_upright_and_in_its_colours(photo: Photo, image_format: Format) -> None:
    result = rendered(photo.data, photo.content_type, [(SMALL, image_format)])

    image = seen(result.images[0].content)
    assert image.size == (48, 32)
    assert (image.format or "").lower() == image_format.value
    expected = [(*color, 255) for color in photo.fields]
    hidden = photo.fields[3]
    if image_format is Format.JPEG:
        red, green, blue = (round(255 - (255 - level) * photo.alpha / 255) for level in hidden)
        expected[3] = (red, green, blue, 255)
    else:
        expected[3] = (*hidden, photo.alpha)
    shown = [image.convert("RGBA").getpixel(place) for place in ((12, 8), (36, 8), (12, 24), (36, 24))]
    for field, color in zip(shown, expected, strict=True):
        assert isinstance(field, tuple)
        assert field == pytest.approx(color, abs=photo.loss)


@pytest.mark.parametrize("photo", photos(), ids=lambda photo: photo.name)
def test_the_probe_told_the_size_before(photo: Photo) -> None:
    found = probe(MemoryBody(photo.data))

    largest = rendered(photo.data, photo.content_type, [(Preset("all", 1000), Format.JPEG)])
    assert (found.content_type, found.frames) == (photo.content_type, photo.frames)
    assert sizes(largest) == [(found.width, found.height)] == [(WIDTH, HEIGHT)]


def test_a_grey_photo_stays_grey_and_one_band_in_jpeg() -> None:
    for photo in (photo for photo in photos() if photo.grey):
        image = seen(rendered(photo.data, photo.content_type, [(SMALL, Format.JPEG)]).images[0].content)

        assert image.mode == "L"


def test_an_alpha_band_that_hides_nothing_is_left_out() -> None:
    photo = next(photo for photo in photos() if photo.name == "png-alpha-hides-nothing")

    for image in rendered(photo.data, photo.content_type, [(SMALL, Format.WEBP), (SMALL, Format.AVIF)]).images:
        assert seen(image.content).mode == "RGB"


def test_no_trace_of_metadata_or_profile_is_in_any_rendition() -> None:
    for photo in photos():
        outputs = [(preset, form) for preset in (SMALL, Preset("all", 1000)) for form in Format]
        for image in rendered(photo.data, photo.content_type, outputs, quality=Quality(avif_effort=0)).images:
            found = [trace for trace in TRACES if trace in image.content]

            assert not found, (photo.name, image.output)
            assert not {"exif", "icc_profile", "xmp", "comment", "photoshop"} & set(seen(image.content).info)


def test_exiftool_finds_nothing_private_in_any_rendition(tmp_path: Path) -> None:
    exiftool = shutil.which("exiftool") or skip_without("exiftool is missing: apt-get install libimage-exiftool-perl")
    originals, renditions = tmp_path / "originals", tmp_path / "renditions"
    originals.mkdir()
    renditions.mkdir()
    for photo in photos():
        (originals / photo.name).write_bytes(photo.data)
        outputs = [(SMALL, image_format) for image_format in Format]
        for image in rendered(photo.data, photo.content_type, outputs, quality=Quality(avif_effort=0)).images:
            (renditions / f"{photo.name}.{image.output.format.extension}").write_bytes(image.content)

    told = {folder: _tags(exiftool, folder) for folder in (originals, renditions)}

    groups = {tag.partition(":")[0] for tags in told[originals] for tag in tags}
    assert {"EXIF", "XMP", "IPTC", "ICC_Profile"} <= groups  # what the test could not miss
    assert SECRET in json.dumps(told[originals])
    assert len(told[renditions]) == 3 * len(photos())
    for tags in told[renditions]:
        assert {tag.partition(":")[0] for tag in tags} <= ALLOWED_GROUPS, tags
        assert not [tag for tag in tags if "GPS" in tag or "Comment" in tag], tags


def _tags(exiftool: str, folder: Path) -> list[dict[str, object]]:
    command = [exiftool, "-json", "-G", "-a", "-u", "-ee", "-ext", "*", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=120)
    tags: list[dict[str, object]] = json.loads(answer.stdout)
    return tags


@pytest.mark.parametrize(
    ("size", "preset", "expected"),
    [
        ((400, 300), Preset("t", 320), (320, 240)),
        ((300, 400), Preset("t", 320), (240, 320)),
        ((100, 50), Preset("t", 320), (100, 50)),
        ((320, 320), Preset("t", 320), (320, 320)),
        ((1001, 333), Preset("t", 100), (100, 33)),
        ((2000, 2), Preset("t", 100), (100, 1)),
        ((1, 1), Preset("t", 100), (1, 1)),
        ((400, 300), Preset("t", 100, "cover"), (100, 100)),
        ((300, 400), Preset("t", 100, "cover"), (100, 100)),
        ((400, 50), Preset("t", 100, "cover"), (50, 50)),
        ((40, 50), Preset("t", 100, "cover"), (40, 40)),
    ],
    ids=str,
)
def test_a_photo_is_fitted_or_covers_and_is_never_enlarged(
    size: tuple[int, int], preset: Preset, expected: tuple[int, int]
) -> None:
    for kind, content_type in (("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("PNG", "image/png")):
        assert sizes(rendered(encoded(kind, *size), content_type, [(preset, Format.WEBP)])) == [expected]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_smallest_photos_have_renditions_in_every_format(kind: str) -> None:
    for size in ((1, 1), (1, 7), (7, 1), (3, 3), (17, 31), (2000, 2), (2, 2000)):
        outputs = [(Preset("t", 100), image_format) for image_format in Format]

        result = rendered(encoded(kind, *size), f"image/{kind.lower()}", outputs, describes=True)

        assert sizes(result) == [tuple(max(1, round(side * min(1, 100 / max(size)))) for side in size)] * 3
        assert result.thumbhash


def test_a_cover_shows_the_middle() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    out = io.BytesIO()
    image.save(out, "PNG")

    shown = seen(rendered(out.getvalue(), "image/png", [(Preset("t", 50, "cover"), Format.WEBP)]).images[0].content)

    assert shown.size == (50, 50)
    for place in ((3, 25), (25, 25), (46, 25)):
        assert shown.convert("RGB").getpixel(place) == pytest.approx((0, 0, 255), abs=10)


def test_all_presets_and_formats_come_from_one_job_in_the_order_that_was_asked_for() -> None:
    presets = (
        Preset("thumbnail", 320),
        Preset("full", 2048),
        Preset("square", 100, "cover"),
        Preset("preview", 1080),
    )
    outputs = [(preset, image_format) for image_format in Format for preset in presets]

    result = rendered(jpeg(2400, 1600, seed=1), "image/jpeg", outputs, describes=True)

    assert [(image.output.preset, image.output.format) for image in result.images] == outputs
    assert sizes(result) == [(320, 213), (2048, 1365), (100, 100), (1080, 720)] * 3
    assert result.thumbhash
    assert result.dominant_color


def test_a_set_shows_what_single_jobs_show() -> None:
    presets = (Preset("thumbnail", 120), Preset("preview", 400), Preset("full", 800))
    photo = encoded("PNG", 1200, 900)
    together = rendered(photo, "image/png", [(preset, Format.JPEG) for preset in presets])

    for preset, image in zip(presets, together.images, strict=True):
        alone = rendered(photo, "image/png", [(preset, Format.JPEG)]).images[0]

        assert _difference(seen(image.content), seen(alone.content)) < 2.5


@pytest.mark.parametrize("side", [90, 160, 330, 500])
def test_what_the_decoder_leaves_out_is_hardly_seen(side: int) -> None:
    photo = jpeg(1280, 960, seed=3)
    through_png = io.BytesIO()
    seen(photo).save(through_png, "PNG")
    outputs = [(Preset("t", side), Format.JPEG)]

    whole = seen(rendered(through_png.getvalue(), "image/png", outputs).images[0].content)
    short = seen(rendered(photo, "image/jpeg", outputs).images[0].content)
    early = seen(rendered(photo, "image/jpeg", outputs, shrinks_early=True).images[0].content)

    assert whole.size == short.size == early.size
    assert _difference(whole, short) < 2
    assert _difference(whole, early) < 4


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures of one size, in steps of 255."""
    assert one.size == other.size
    pairs = zip(one.convert("RGB").tobytes(), other.convert("RGB").tobytes(), strict=True)
    return sum(abs(first - second) for first, second in pairs) / (one.width * one.height * 3)


def test_a_job_without_outputs_describes_and_makes_nothing() -> None:
    result = rendered(jpeg(640, 480, seed=1), "image/jpeg", describes=True)

    assert not result.images
    assert result.thumbhash is not None
    assert len(result.thumbhash) <= 36
    assert result.dominant_color is not None
    assert len(result.dominant_color) == 7


def test_nobody_who_does_not_ask_for_a_description_pays_for_it() -> None:
    result = rendered(jpeg(64, 48, seed=1), "image/jpeg", [(SMALL, Format.JPEG)])

    assert (result.thumbhash, result.dominant_color) == (None, None)


def test_a_description_is_the_same_whatever_else_is_made() -> None:
    photo = encoded("PNG", 640, 480)
    alone = rendered(photo, "image/png", describes=True)
    beside = rendered(photo, "image/png", [(Preset("t", 320), Format.WEBP)], describes=True)
    tiny = rendered(photo, "image/png", [(Preset("t", 16), Format.WEBP)], describes=True)

    assert alone.dominant_color is not None
    for other in (beside, tiny):
        assert other.dominant_color is not None
        levels = [list(bytes.fromhex(color[1:])) for color in (other.dominant_color, alone.dominant_color)]
        assert levels[0] == pytest.approx(levels[1], abs=8)


def test_a_quality_is_used_for_its_format() -> None:
    photo = jpeg(320, 240, seed=1)
    outputs = [(Preset("t", 320), image_format) for image_format in Format]
    high = rendered(photo, "image/jpeg", outputs, quality=Quality(jpeg=90, webp=90, avif=90, avif_effort=0))

    for at, image_format in enumerate(Format):
        low = Quality(**{"jpeg": 90, "webp": 90, "avif": 90, "avif_effort": 0, image_format.value: 20})
        made = rendered(photo, "image/jpeg", outputs, quality=low).images

        smaller = [len(new.content) < len(old.content) for new, old in zip(made, high.images, strict=True)]
        assert smaller == [index == at for index in range(3)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
def test_a_photo_that_is_cut_off_is_refused(kind: str) -> None:
    data = encoded(kind, 200, 150)

    with pytest.raises(UndecodableImageError) as caught:
        rendered(data[: len(data) // 2], f"image/{kind.lower()}", [(SMALL, Format.WEBP)])

    assert "VIPS" not in caught.value.detail.upper()
    assert caught.value.__cause__ is not None


def test_a_photo_with_some_wrong_bits_is_shown_all_the_same() -> None:
    data = bytearray(jpeg(400, 300, seed=1))
    data[len(data) // 2] ^= 0x55
    stray = bytes(data[:-2]) + bytes(5) + bytes(data[-2:])

    for damaged in (bytes(data), stray):
        assert sizes(rendered(damaged, "image/jpeg", [(SMALL, Format.WEBP)])) == [(48, 36)]


def test_the_descriptor_is_left_open_and_may_stand_anywhere() -> None:
    data = jpeg(64, 48, seed=1)
    descriptor = os.memfd_create("original")
    os.write(descriptor, data)
    outputs = (Output(SMALL, Format.JPEG),)
    job = RenderJob(content_type="image/jpeg", width=64, height=48, size_bytes=1, outputs=outputs, quality=BEST)

    first, second = render(descriptor, job), render(descriptor, job)

    assert first == second
    assert os.fstat(descriptor).st_size == len(data)
    os.close(descriptor)


def test_descriptors_do_not_leak() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for photo in photos():
        rendered(photo.data, photo.content_type, [(SMALL, Format.WEBP)])
        with pytest.raises(UndecodableImageError):
            rendered(photo.data[:60], photo.content_type, [(SMALL, Format.WEBP)])

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("photo", photos()[:5], ids=lambda photo: photo.name)
def test_a_photo_with_more_pixels_than_were_admitted_is_refused(photo: Photo) -> None:
    outputs = (Output(SMALL, Format.JPEG),)
    job = RenderJob(
        content_type=photo.content_type,
        width=WIDTH,
        height=HEIGHT - 1,
        size_bytes=1,
        outputs=outputs,
        quality=BEST,
    )
    descriptor = os.memfd_create("original")
    os.write(descriptor, photo.data)

    with pytest.raises(UndecodableImageError, match="larger than its header says"):
        render(descriptor, job)

    os.close(descriptor)


@pytest.mark.parametrize("said", [(1, 1), (100, 75)], ids=str)
@pytest.mark.parametrize(("content_type", "make"), [("image/avif", saved), ("image/heic", heic)])
def test_a_photo_that_is_larger_than_its_boxes_say_cannot_be_decoded_however_much_memory_there_is(
    content_type: str, make: Callable[..., bytes], said: tuple[int, int]
) -> None:
    image = Image.new("RGB", (2000, 1500), (200, 100, 50))
    data = resized_in_boxes(make(image, *["AVIF"] * (make is saved)), image.size, said)
    found = probe(MemoryBody(data))

    with pytest.raises(UndecodableImageError) as caught:
        rendered(data, content_type, [(SMALL, Format.WEBP)])

    assert (found.content_type, found.width, found.height) == (content_type, *said)
    assert "Security limit exceeded" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "said",
    [
        "heif: Invalid input: Unspecified: Memory allocation error (2.0)",
        "Memory allocation error: Unspecified: Allocating 48000015 bytes failed",
        "Insufficient memory (case 4)",
        "out of memory --- size == 46MB",
        "heif: Memory allocation error: Security limit exceeded: 1 by 1\nheif: Memory allocation error: Unspecified",
    ],
)
def test_a_decoder_that_gets_no_memory_says_nothing_of_the_photo(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    def fail(*_: object) -> None:
        raise pyvips.Error("unable to copy to memory", said)

    monkeypatch.setattr(rendering, "_decode", fail)

    with pytest.raises(MemoryError):
        rendered(encoded("JPEG", 40, 30), "image/jpeg", [(SMALL, Format.WEBP)])


@pytest.mark.parametrize("image_format", Format)
@pytest.mark.parametrize("names_transparency", [True, False], ids=["transparency", "none"])
@pytest.mark.parametrize("screen", [(300, 200), (640, 480)], ids=str)
def test_beside_the_first_picture_of_a_gif_there_is_nothing(
    screen: tuple[int, int], names_transparency: bool, image_format: Format
) -> None:
    rest = gif_frame(at=(250, 150))
    data = gif_part(screen, at=(50, 60), size=(100, 80), names_transparency=names_transparency, rest=rest)
    found = probe(MemoryBody(data))

    image = rendered(data, "image/gif", [(Preset("all", 1000), image_format)]).images[0]

    clear = (255, 255, 255, 255) if image_format is Format.JPEG else (0, 0, 0, 0)
    shown = seen(image.content).convert("RGBA")
    assert (image.width, image.height) == (found.width, found.height) == screen
    for place in ((20, 20), (100, 40), (100, 160), (30, 100), (180, 100), (290, 190)):
        assert shown.getpixel(place) == pytest.approx(clear, abs=4)
    for place in ((60, 70), (100, 100), (140, 130)):
        assert shown.getpixel(place) == pytest.approx((0, 0, 0, 255), abs=4)


@pytest.mark.parametrize(
    ("said", "raised"),
    [("heif: Memory allocation error: Out of memory", MemoryError), ("heif: unknown fault", pyvips.Error)],
    ids=["memory", "fault"],
)
def test_an_encoder_that_fails_says_nothing_of_the_photo(
    monkeypatch: pytest.MonkeyPatch, said: str, raised: type[Exception]
) -> None:
    def fail(*_: object) -> bytes:
        raise pyvips.Error("unable to call heifsave_buffer", said)

    monkeypatch.setattr(rendering, "_encode", fail)

    with pytest.raises(raised):
        rendered(encoded("JPEG", 40, 30), "image/jpeg", [(Preset("t", 20), Format.AVIF)])


def test_a_picture_with_alpha_is_no_darker_than_one_without() -> None:
    color = pyvips.Image.gaussnoise(200, 200, mean=120, sigma=30, seed=1).cast("uchar")
    size = rendering._Size(90, 90)
    plain = rendering._resized(color, size)

    veiled = rendering._resized(color.bandjoin(130).copy(interpretation="b-w"), size)

    assert veiled.hasalpha()
    assert veiled[0].avg() == pytest.approx(plain.avg(), abs=0.2)  # half a level where fractions are cut off
