"""What a photo costs: never less than it takes, and not several times as much."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pillow_heif
import pytest
import pyvips

from app.images.cost import cost_of
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from tests.fakes.hostile_images import hostile_images
from tests.fakes.images import box, heif
from tests.fakes.memory_body import MemoryBody

MIB = 1024 * 1024
WIDTH, HEIGHT = 1800, 1200
PIXELS = WIDTH * HEIGHT
SMALL, LARGE = Preset("thumbnail", 320), Preset("full", 2048)

RENDERS = """
import json, os, re, sys
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.rendering import render
from app.images.trial import try_out

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

try_out(render)
facts = json.loads(sys.argv[1])
outputs = tuple(Output(Preset("preset", side), Format(name)) for side, name in facts.pop("outputs"))
job = RenderJob(outputs=outputs, quality=Quality(), **facts)
descriptor = os.memfd_create("original")
os.write(descriptor, sys.stdin.buffer.read())
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = status("VmRSS")
render(descriptor, job)
print(status("VmHWM") - before)
"""


@dataclass(frozen=True, slots=True)
class Original:
    """A kind of file.

    Attributes:
        content_type: Its media type.
        data: The file; it shows noise.
    """

    content_type: str
    data: bytes


def noise(bands: int) -> pyvips.Image:
    """Return a picture of noise, one seed for each band."""
    planes = [
        pyvips.Image.gaussnoise(WIDTH // 8, HEIGHT // 8, mean=128, sigma=40, seed=seed).resize(8)
        for seed in range(bands)
    ]
    image = planes[0].bandjoin(planes[1:]) if bands > 1 else planes[0]
    grey = bands < 3
    return image.crop(0, 0, WIDTH, HEIGHT).cast("uchar").copy(interpretation="b-w" if grey else "srgb").copy_memory()


def deep(bands: int) -> pyvips.Image:
    """Return a picture of 16 bits per sample."""
    return (noise(bands) * 257).cast("ushort").copy(interpretation="grey16" if bands < 3 else "rgb16")


def saved(suffix: str, image: pyvips.Image, **options: object) -> bytes:
    return bytes(image.write_to_buffer(suffix, **options))


def heic() -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_bytes("RGB", (WIDTH, HEIGHT), bytes(noise(3).write_to_memory())).save(stream, quality=40)
    return stream.getvalue()


def animation() -> bytes:
    """Return a GIF of two frames."""
    frames = pyvips.Image.arrayjoin([noise(3)] * 2, across=1).copy()
    frames.set_type(pyvips.GValue.gint_type, "page-height", HEIGHT)
    return saved(".gif", frames, effort=1, dither=0)


def gif_of_a_part() -> bytes:
    """Return a GIF whose picture leaves one line and one row of its screen empty."""
    whole = saved(".gif", noise(3).crop(1, 1, WIDTH - 1, HEIGHT - 1), effort=1, dither=0)
    sides = struct.pack("<HH", WIDTH - 1, HEIGHT - 1)
    picture = whole.index(b"," + bytes(4) + sides)
    screen = whole[:6] + struct.pack("<HH", WIDTH, HEIGHT) + whole[10:picture]
    return screen + b"," + struct.pack("<HH", 1, 1) + whole[picture + 5 :]


KINDS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg": ("image/jpeg", lambda: saved(".jpg", noise(3), Q=80)),
    "jpeg-grey": ("image/jpeg", lambda: saved(".jpg", noise(1), Q=80)),
    "jpeg-cmyk": ("image/jpeg", lambda: saved(".jpg", noise(3).colourspace("cmyk"), Q=80)),
    "jpeg-progressive": ("image/jpeg", lambda: saved(".jpg", noise(3), Q=80, interlace=True)),
    "jpeg-progressive-444": (
        "image/jpeg",
        lambda: saved(".jpg", noise(3), Q=80, interlace=True, subsample_mode="off"),
    ),
    "jpeg-progressive-cmyk": (
        "image/jpeg",
        lambda: saved(".jpg", noise(3).colourspace("cmyk"), Q=80, interlace=True),
    ),
    "png": ("image/png", lambda: saved(".png", noise(3), compression=1)),
    "png-16": ("image/png", lambda: saved(".png", deep(3), compression=1)),
    "png-alpha": ("image/png", lambda: saved(".png", noise(4), compression=1)),
    "png-16-alpha": ("image/png", lambda: saved(".png", deep(4), compression=1)),
    "png-interlaced": ("image/png", lambda: saved(".png", noise(3), compression=1, interlace=True)),
    "png-16-alpha-interlaced": ("image/png", lambda: saved(".png", deep(4), compression=1, interlace=True)),
    "webp": ("image/webp", lambda: saved(".webp", noise(3), effort=0)),
    "webp-alpha": ("image/webp", lambda: saved(".webp", noise(4), effort=0)),
    "webp-lossless": ("image/webp", lambda: saved(".webp", noise(4), effort=0, lossless=True)),
    "gif": ("image/gif", lambda: saved(".gif", noise(3), effort=1, dither=0)),
    "gif-animated": ("image/gif", animation),
    "gif-transparent": ("image/gif", lambda: saved(".gif", noise(4), effort=1, dither=0)),
    "gif-part": ("image/gif", gif_of_a_part),
    "heic": ("image/heic", heic),
    "avif": ("image/avif", lambda: saved(".avif", noise(3), effort=0, Q=50)),
    "avif-alpha": ("image/avif", lambda: saved(".avif", noise(4), effort=0, Q=50)),
    "avif-10": ("image/avif", lambda: saved(".avif", deep(3), effort=0, Q=50, bitdepth=10)),
}


@cache
def original(kind: str) -> Original:
    content_type, make = KINDS[kind]
    return Original(content_type, make())


def job_for(
    content_type: str, size_bytes: int, *outputs: Output, width: int = WIDTH, height: int = HEIGHT
) -> RenderJob:
    return RenderJob(
        content_type=content_type,
        width=width,
        height=height,
        size_bytes=size_bytes,
        outputs=outputs or (Output(SMALL, Format.WEBP),),
        quality=Quality(),
    )


def cost_by(data: bytes, content_type: str, *outputs: Output, **facts: Any) -> int:
    job = replace(job_for(content_type, len(data), *outputs), **facts)
    return cost_of(MemoryBody(data), job)


def grown_by(job: RenderJob, data: bytes) -> int:
    """Return by how many bytes a process grows at its peak while it does a job."""
    facts = {name: getattr(job, name) for name in ("content_type", "width", "height", "size_bytes")}
    facts["outputs"] = [(output.preset.side, output.format) for output in job.outputs]
    facts["shrinks_early"] = job.shrinks_early
    command = [sys.executable, "-c", RENDERS, json.dumps(facts)]
    environment = {"MALLOC_ARENA_MAX": "2", "VIPS_CONCURRENCY": "1"}
    answer = subprocess.run(command, input=data, capture_output=True, check=True, timeout=120, env=environment)
    return int(answer.stdout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["small", "large"])
def test_no_photo_takes_more_than_it_is_said_to_cost_nor_is_it_said_to_cost_a_multiple(
    kind: str, wanted: str
) -> None:
    photo = original(kind)
    output = Output(SMALL, Format.WEBP) if wanted == "small" else Output(LARGE, Format.AVIF)
    job = job_for(photo.content_type, len(photo.data), output)

    grown, said = grown_by(job, photo.data), cost_of(MemoryBody(photo.data), job)

    assert grown <= said, f"{grown / MIB:.0f} MiB, said {said / MIB:.0f}"
    assert said <= 4 * grown + 32 * MIB, f"{grown / MIB:.0f} MiB, said {said / MIB:.0f}"


def test_progressive_jpegs_cost_their_coefficients_and_others_do_not() -> None:
    baseline, *progressive = (
        cost_by(original(kind).data, "image/jpeg", size_bytes=0)
        for kind in ("jpeg", "jpeg-progressive", "jpeg-progressive-cmyk")
    )

    assert [said - baseline for said in progressive] == [2 * 3 * PIXELS, 2 * 4 * PIXELS]


def test_components_that_come_one_after_the_other_cost_as_much_as_passes() -> None:
    data = original("jpeg").data
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    alone = data[: scan + 2] + b"\0\x08\x01" + data[scan + 5 : scan + 7] + data[-5:]

    said = cost_by(alone, "image/jpeg", size_bytes=0)

    assert frame < scan
    assert said - cost_by(data, "image/jpeg", size_bytes=0) == 2 * 3 * PIXELS


def test_transparency_of_a_png_without_an_alpha_band_counts_as_one() -> None:
    plain, alpha = original("png").data, original("png-alpha").data
    at = plain.index(b"IDAT") - 4
    chunk = b"\0\0\0\x06tRNS" + bytes(10)

    said = cost_by(plain[:at] + chunk + plain[at:], "image/png", size_bytes=0)

    assert said == cost_by(alpha, "image/png", size_bytes=0) > cost_by(plain, "image/png", size_bytes=0)


def test_an_interlaced_png_costs_all_of_its_samples_more() -> None:
    deep_ones = cost_by(original("png-16-alpha-interlaced").data, "image/png", size_bytes=0)
    striped = cost_by(original("png-16-alpha").data, "image/png", size_bytes=0)

    assert deep_ones - striped == PIXELS * 4 * 2


def test_a_lossy_webp_is_cheaper_when_memory_is_to_be_saved_and_when_less_of_it_is_wanted() -> None:
    data = original("webp").data
    sharp, early = (
        cost_by(data, "image/webp", Output(Preset("preview", 900), Format.WEBP), shrinks_early=early)
        for early in (False, True)
    )
    whole = cost_by(data, "image/webp", Output(LARGE, Format.WEBP))

    assert early < sharp < whole
    assert sharp < cost_by(original("webp-lossless").data, "image/webp", Output(Preset("preview", 900), Format.WEBP))


def test_what_is_cropped_away_costs_as_much_as_what_is_shown() -> None:
    crop = box(b"clap", struct.pack(">8I", 8, 1, 6, 1, 0, 1, 0, 1))
    whole, cropped = (
        cost_by(heif((WIDTH, HEIGHT), properties=properties), "image/heic", size_bytes=0, **shown)
        for properties, shown in [((), {}), ((crop,), {"width": 8, "height": 6})]
    )

    assert cropped == whole


def test_the_largest_output_counts_and_avif_more_than_others() -> None:
    data = original("jpeg").data
    small, large, avif = (
        cost_by(data, "image/jpeg", *outputs)
        for outputs in (
            [Output(SMALL, Format.JPEG)],
            [Output(SMALL, Format.JPEG), Output(LARGE, Format.WEBP)],
            [Output(LARGE, Format.AVIF)],
        )
    )

    assert small < large < avif


def test_a_square_that_is_filled_costs_the_picture_that_it_is_cut_out_of() -> None:
    data = original("jpeg").data
    fit, cover = (
        cost_by(data, "image/jpeg", Output(Preset("thumbnail", 1000, fit), Format.WEBP)) for fit in ("fit", "cover")
    )

    assert cover > fit


def test_a_photo_smaller_than_the_preset_is_not_enlarged_for_its_cost() -> None:
    data = original("jpeg").data
    outputs = (Output(LARGE, Format.WEBP),)

    assert cost_by(data, "image/jpeg", *outputs, width=20, height=10) < 16 * MIB + len(data)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "image/webp"])
@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"], ids=repr)
def test_a_header_that_cannot_be_read_costs_as_much_as_the_worst_of_its_kind(content_type: str, data: bytes) -> None:
    kinds = [kind for kind, (of_type, _) in KINDS.items() if of_type == content_type]
    worst = max(cost_by(original(kind).data, content_type, size_bytes=0) for kind in kinds)

    said = cost_by(data, content_type, size_bytes=0)

    assert said >= worst


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"])
def test_no_file_whatever_ends_the_reckoning(content_type: str) -> None:
    job = job_for(content_type, 0)

    said = [cost_of(MemoryBody(image.data), job) for image in hostile_images()]

    assert 0 < min(said) <= max(said) <= 40 * PIXELS


def test_a_header_is_read_without_the_rest_and_the_reader_closed() -> None:
    photo = original("png")
    body = MemoryBody(photo.data)

    cost_of(body, job_for(photo.content_type, len(photo.data)))

    assert [reader.closed for reader in body.readers] == [True]


def test_a_type_that_nobody_knows_costs_as_much_as_the_costliest() -> None:
    unknown, avif = (cost_by(b"", kind) for kind in ("image/unheard-of", "image/avif"))

    assert unknown >= avif
