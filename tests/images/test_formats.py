"""What single formats say in more than one way, and where their readers have edges."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from app.errors import ImageLimitError, UndecodableImageError
from app.images.gif import first_frame
from app.images.probe import ImageLimits, ProbedImage, probe
from app.images.structure import Source
from tests.fakes.exif import ExifFacts, exif_block
from tests.fakes.hostile_images import jpeg_with, segment
from tests.fakes.images import (
    box,
    encoded,
    ftyp,
    gif,
    gif_frame,
    heif,
    ispe,
    jpeg,
    picture,
    png,
    png_chunk,
    riff_chunk,
    vp8l,
    vp8x,
    webp,
)
from tests.fakes.memory_body import MemoryBody

WINDOW = 64 * 1024


def probed(data: bytes, limits: ImageLimits | None = None) -> ProbedImage:
    return probe(MemoryBody(data), limits or ImageLimits())


# JPEG


@pytest.mark.parametrize("shift", range(-3, 4))
@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("end", [b"\xff\xd9", b"\xff\xff\xd9", b"\xff\xff\xff\xff\xd9"])
def test_end_of_a_jpeg_is_found_across_windows(windows: int, shift: int, end: bytes) -> None:
    data = jpeg(16, 16, seed=1)
    filler = bytes(windows * WINDOW + shift - len(data) + 2)

    assert probed(data[:-2] + filler + end).scans == 1
    for cut in range(1, len(end)):
        with pytest.raises(UndecodableImageError):
            probed(data[:-2] + filler + end[:-cut])


@pytest.mark.parametrize("pair", [b"\xff\x00", b"\xff\xd0", b"\xff\xd7"])
@pytest.mark.parametrize("shift", range(3))
def test_stuffed_bytes_and_restarts_across_windows_are_no_end(pair: bytes, shift: int) -> None:
    data = jpeg(16, 16, seed=1)

    assert probed(data[:-2] + bytes(shift) + pair * WINDOW + data[-2:]).scans == 1


def changed(marker: int, at: int, value: int) -> bytes:
    """Return a JPEG with another byte in its first segment of a kind; 0 is the first byte of its length."""
    data = bytearray(jpeg(16, 16, seed=1))
    data[data.index(bytes([0xFF, marker])) + 2 + at] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg_with(b"\xff\xe5\0\1" + bytes(70)), "length of a segment"),
        (jpeg_with(segment(0x01)), "segment that no JPEG has"),
        (jpeg_with(b"\xff\xd0"), "segment that no JPEG has"),
        (jpeg_with(segment(0xDD, b"\0\0\0")), "segment that no JPEG has"),
        (changed(0xC0, 1, 16), "length of its frame header"),
        (changed(0xC0, 2, 9), "length of its frame header"),
        (changed(0xC0, 11, 1), "colour components"),
        (changed(0xC0, 9, 0x51), "colour components"),
        (changed(0xC0, 9, 0x10), "colour components"),
        (changed(0xC0, 10, 4), "colour components"),
        (changed(0xDA, 2, 0), "length of a scan header"),
        (changed(0xDA, 2, 2), "length of a scan header"),
        (changed(0xDA, 3, 9), "colour component that is not there"),
        (changed(0xDA, 9, 64), "scan header is wrong"),
        (changed(0xDA, 10, 64), "scan header is wrong"),
        (changed(0xDB, 2, 0x24), "quantization table is wrong"),
        (changed(0xDB, 2, 0x04), "quantization table is wrong"),
        (jpeg_with(segment(0xDB, bytes(64))), "length of a quantization table"),
        (jpeg_with(segment(0xC4, b"\x20" + bytes(16))), "Huffman table is wrong"),
        (jpeg_with(segment(0xC4, b"\x04" + bytes(16))), "Huffman table is wrong"),
        (jpeg_with(segment(0xC4, b"\0" + b"\xff" * 16 + bytes(4_080))), "Huffman table is wrong"),
        (jpeg_with(segment(0xC4, b"\0\2" + bytes(16))), "length of a Huffman table"),
    ],
)
def test_segment_of_a_jpeg_that_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImageError, match=reason):
        probed(data)


def test_thumbnail_in_exif_does_not_end_a_jpeg() -> None:
    thumbnail = jpeg(8, 8, seed=2)
    data = jpeg_with(segment(0xE1, b"Exif\0\0" + exif_block() + thumbnail))

    assert probed(data).width == 16
    with pytest.raises(UndecodableImageError):
        probed(data[:-2])


def test_first_exif_of_a_jpeg_counts() -> None:
    first, second = (segment(0xE1, b"Exif\0\0" + exif_block(ExifFacts(model=name))) for name in ("One", "Two"))

    assert probed(jpeg_with(first + second)).camera == "Fujifilm One"


def test_scans_are_as_many_as_their_markers() -> None:
    out = io.BytesIO()
    picture(32, 32, seed=1).save(out, "JPEG", progressive=True)

    assert probed(out.getvalue()).scans == out.getvalue().count(b"\xff\xda")


# PNG


CONTROL = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 10, 0, 0)
ANIMATION = png_chunk(b"acTL", struct.pack(">II", 2, 0))
FIRST = png_chunk(b"fcTL", bytes(4) + CONTROL)
PALETTE = png_chunk(b"PLTE", bytes(3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(before=png_chunk(b"t3Xt", b"a")), "chunk does not start"),
        (png(before=png_chunk(b"tE\xe9t", b"a")), "chunk does not start"),
        (png(before=b"\x80\0\0\0tEXt"), "chunk does not start"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"a\0") + png()[8:], "header chunk"),
        (png(header=b"\x08\0\0\0\0\0"), "header chunk"),
        (png(header=b"\x08\0\1\0\0"), "kind of picture"),
        (png(header=b"\x08\0\0\0\2"), "kind of picture"),
        (png(before=PALETTE * 2), "palette is wrong"),
        (png(before=png_chunk(b"PLTE", bytes(4))), "palette is wrong"),
        (png(before=png_chunk(b"PLTE", bytes(771))), "palette is wrong"),
        (png(after=PALETTE), "palette is wrong"),
        (png(after=png_chunk(b"IEND", b"x")), "end chunk is not empty"),
        (png(before=ANIMATION * 2), "animation chunk is wrong"),
        (png(before=png_chunk(b"acTL", bytes(7))), "animation chunk is wrong"),
        (png(before=ANIMATION + FIRST, after=png_chunk(b"fdAT", bytes(3))), "out of order"),
        (png(before=ANIMATION + png_chunk(b"fdAT", bytes(9))), "out of order"),
        (png(before=ANIMATION + FIRST + png_chunk(b"fcTL", b"\0\0\0\1" + CONTROL)), "number of frames"),
        (png(before=ANIMATION + FIRST, after=png_chunk(b"fcTL", b"\0\0\0\1" + CONTROL)), "number of frames"),
        (png(before=png_chunk(b"zTXt", b"a" * 80)), "no keyword"),
        (png(before=png_chunk(b"iCCP", b"")), "no keyword"),
    ],
)
def test_chunk_of_a_png_that_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImageError, match=reason):
        probed(data)


def test_default_image_outside_of_the_animation_counts_as_pillow_counts_it() -> None:
    out = io.BytesIO()
    frames = [picture(20, 10, seed=seed) for seed in range(4)]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], default_image=True)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        expected = getattr(image, "n_frames", 1)

    assert probed(out.getvalue()).frames == expected == 4


def test_frame_chunks_without_an_animation_chunk_are_ignored() -> None:
    data = png(before=png_chunk(b"fcTL", bytes(26)), after=png_chunk(b"fdAT", bytes(9)))

    assert probed(data).frames == 1


@pytest.mark.parametrize(
    ("first", "second", "picture_data"),
    [(0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3)],
    ids=["right", "late", "gap", "skip"],
)
def test_animation_out_of_order_is_refused(first: int, second: int, picture_data: int) -> None:
    def control(number: int) -> bytes:
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 1, 1, 0, 0, 1, 10, 0, 0))

    frame = png_chunk(b"fdAT", struct.pack(">I", picture_data) + bytes(9))
    data = png(before=png_chunk(b"acTL", struct.pack(">II", 2, 0)) + control(first), after=control(second) + frame)

    if (first, second, picture_data) == (0, 1, 2):
        assert probed(data).frames == 2
    else:
        with pytest.raises(UndecodableImageError, match="out of order"):
            probed(data)


@pytest.mark.parametrize(("width", "height", "x", "y"), [(5, 1, 0, 0), (1, 4, 0, 0), (1, 1, 4, 0), (0, 1, 0, 0)])
def test_frame_of_a_png_outside_of_the_picture_is_refused(width: int, height: int, x: int, y: int) -> None:
    control = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, x, y, 1, 10, 0, 0))

    with pytest.raises(UndecodableImageError, match="outside"):
        probed(png((4, 3), before=png_chunk(b"acTL", struct.pack(">II", 1, 0)) + control))


# GIF and WebP


@pytest.mark.parametrize("size", [(0, 1), (1, 0)])
def test_gif_without_a_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UndecodableImageError, match="width or height is zero"):
        probed(gif(size))


@pytest.mark.parametrize("flags", [0x00, 0x80, 0x87])
def test_local_colour_table_of_a_gif_is_skipped(flags: int) -> None:
    table = bytes(3 * 2 ** ((flags & 7) + 1)) if flags & 0x80 else b""
    frame = gif_frame()[:9] + bytes([flags]) + table + gif_frame()[10:]

    assert probed(gif(frames=frame * 2)).frames == 2


@pytest.mark.parametrize("shift", range(4))
def test_gif_pieces_across_windows_are_followed(shift: int) -> None:
    blocks = bytes([1 + shift]) + bytes(1 + shift) + (b"\xff" + bytes(255)) * 600 + b"\0"

    assert probed(gif(frames=gif_frame(blocks=blocks) * 2)).frames == 2


def test_first_frame_of_a_gif_is_looked_for_within_the_limits() -> None:
    few = ImageLimits(max_segments=20, max_side=300)
    found = gif((300, 200), frames=gif_frame((9, 8), at=(50, 60)), before=b"!\xfe\1x\0" * 20)
    for data in (gif((300, 200), before=b"!\xfe\1x\0" * 21), gif((301, 200))):
        with pytest.raises(ImageLimitError):
            first_frame(Source(io.BytesIO(data), len(data)), few)

    assert first_frame(Source(io.BytesIO(found), len(found)), few) == ((300, 200), (50, 60), (9, 8))
    for data in (gif((0, 200)), gif(frames=b""), gif(frames=b",\0"), found[:40]):
        with pytest.raises(UndecodableImageError):
            first_frame(Source(io.BytesIO(data), len(data)), few)


def test_exif_of_a_webp_may_come_with_or_without_its_prefix() -> None:
    for prefix in (b"", b"Exif\0\0"):
        chunk = riff_chunk(b"EXIF", prefix + exif_block(ExifFacts(orientation=8)))

        assert probed(webp(vp8x((4, 2), 8), vp8l((4, 2)), chunk)).orientation == 8


# AVIF, HEIC, HEIF

TURNS = {0: 1, 1: 8, 2: 3, 3: 6}
MIRRORS = {0: 4, 1: 2}


@pytest.mark.parametrize(("turn", "orientation"), TURNS.items())
def test_rotation_property_is_the_orientation(turn: int, orientation: int) -> None:
    found = probed(heif((64, 48), properties=(box(b"irot", bytes([turn])),)))

    assert (found.orientation, found.width) == (orientation, 48 if turn % 2 else 64)


@pytest.mark.parametrize(("axis", "orientation"), MIRRORS.items())
def test_mirror_property_is_the_orientation(axis: int, orientation: int) -> None:
    assert probed(heif(properties=(box(b"imir", bytes([axis])),))).orientation == orientation


def test_rotation_and_mirror_apply_in_their_order() -> None:
    turn, mirror = box(b"irot", b"\1"), box(b"imir", b"\1")

    first, second = probed(heif(properties=(turn, mirror))), probed(heif(properties=(mirror, turn)))

    assert {first.orientation, second.orientation} == {5, 7}


def test_orientation_in_the_exif_of_a_heic_is_ignored_and_the_rest_is_read() -> None:
    found = probed(heif(exif=exif_block(ExifFacts(orientation=6))))

    assert (found.orientation, found.width, found.camera) == (1, 64, "Fujifilm X-T5")


def test_exif_item_of_a_real_avif_is_read() -> None:
    found = probed(encoded("AVIF", 32, 16, exif=exif_block(ExifFacts(latitude=1.5, longitude=-2.5))))

    assert (found.camera, found.latitude, found.longitude) == ("Fujifilm X-T5", 1.5, -2.5)


@pytest.mark.parametrize(
    ("aperture", "size"),
    [
        ((40, 1, 30, 1), (40, 30)),
        ((80, 2, 31, 2), (40, 15)),
        ((400, 1, 30, 1), (64, 48)),
        ((40, 0, 30, 0), (64, 48)),
        ((0, 1, 0, 1), (64, 48)),
    ],
)
def test_crop_is_applied_when_it_makes_sense(aperture: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    found = probed(heif((64, 48), properties=(box(b"clap", struct.pack(">8I", *aperture, 0, 1, 0, 1)),)))

    assert (found.width, found.height) == size


def test_what_is_cropped_away_counts_as_decoded() -> None:
    crop = box(b"clap", struct.pack(">8I", 8, 1, 6, 1, 0, 1, 0, 1))

    with pytest.raises(ImageLimitError):
        probed(heif((20_000, 20_000), properties=(crop,)))


@pytest.mark.parametrize(
    ("major", "codec", "content_type"),
    [
        (b"heic", b"hvc1", "image/heic"),
        (b"heix", b"grid", "image/heic"),
        (b"avif", b"av01", "image/avif"),
        (b"avif", b"grid", "image/avif"),
        (b"mif1", b"hvc1", "image/heic"),
        (b"mif1", b"av01", "image/avif"),
        (b"mif1", b"avc1", "image/heif"),
        (b"mif1", b"grid", "image/heif"),
        (b"heic", b"av01", "image/avif"),
    ],
)
def test_coding_of_the_primary_picture_decides_before_the_brand(
    major: bytes, codec: bytes, content_type: str
) -> None:
    found = probed(heif(major=major, codec=codec))

    assert (found.content_type, found.extension) == (content_type, content_type[6:])


def test_newer_versions_of_the_item_boxes_are_read() -> None:
    entry = box(b"infe", struct.pack(">IH", 70_000, 0) + b"av01\0", version=3)
    items = (
        box(b"pitm", struct.pack(">I", 70_000), version=1)
        + box(b"iinf", struct.pack(">I", 1) + entry, version=1)
        + box(b"iloc", b"\x44\x40" + struct.pack(">IIHHIHII", 1, 70_000, 1, 0, 2, 1, 3, 5), version=2)
        + box(b"idat", bytes(10))
        + box(
            b"iprp",
            box(b"ipco", box(b"free") + ispe((30, 20)))
            + box(b"ipma", struct.pack(">IIBH", 1, 70_000, 1, 0x8002), version=1, flags=1),
        )
    )

    found = probed(heif(items=(items, b"", b"")))

    assert (found.width, found.height, found.content_type) == (30, 20, "image/avif")


@pytest.mark.parametrize(
    ("base", "offset", "length"), [(0, 0, 11), (10, 0, 1), (0, 11, 0), (0, 2**32 - 1, 2**32 - 1)]
)
def test_item_outside_of_its_box_is_refused(base: int, offset: int, length: int) -> None:
    table = struct.pack(">HHHHIHII", 1, 1, 1, 0, base, 1, offset, length)
    items = box(b"iloc", b"\x44\x40" + table, version=1) + box(b"idat", bytes(10))

    with pytest.raises(UndecodableImageError):
        probed(heif(items=(items, b"", b"")))


@pytest.mark.parametrize(("offset", "length"), [(0, 10_000), (10_000, 0), (2**32 - 1, 2**32 - 1)])
def test_item_outside_of_the_file_is_refused_whoever_it_belongs_to(offset: int, length: int) -> None:
    table = struct.pack(">HHHHIIHHHII", 2, 1, 0, 1, 0, 10, 9, 0, 1, offset, length)

    with pytest.raises(UndecodableImageError, match="cut off"):
        probed(heif(items=(box(b"iloc", b"\x44\0" + table, version=0), b"", b"")))


def test_long_and_open_ended_boxes_are_followed() -> None:
    data = heif()
    at = data.index(b"mdat") - 4
    long = data[:at] + struct.pack(">I4sQ", 1, b"free", 24) + bytes(8) + data[at:]
    open_ended = data[:at] + bytes(4) + data[at + 4 :]

    assert probed(long + bytes(64)).width == 64
    assert probed(open_ended).width == 64


def test_description_of_something_else_than_pictures_is_refused() -> None:
    with pytest.raises(UndecodableImageError, match="not one of pictures"):
        probed(
            heif(items=(box(b"hdlr", bytes(4) + b"soun" + bytes(13), version=0), b"", b"")).replace(b"pict", b"soun")
        )


def track(handler: bytes, sizes: bytes, codec: bytes = b"hvc1", size: tuple[int, int] = (32, 24)) -> bytes:
    entry = box(codec, bytes(24) + struct.pack(">HH", *size) + bytes(50))
    tables = box(b"stsd", struct.pack(">I", 1) + entry, version=0) + sizes
    media = box(b"hdlr", bytes(4) + handler + bytes(13), version=0) + box(b"minf", box(b"stbl", tables))
    return box(b"trak", box(b"tkhd", bytes(80), version=0) + box(b"mdia", media))


def test_sequence_without_a_still_picture_is_read() -> None:
    sizes = box(b"stsz", struct.pack(">IIII", 0, 2, 10, 20), version=0)
    alpha, pictures = track(b"auxv", sizes, b"av01"), track(b"pict", sizes)
    data = ftyp(b"hevc", b"msf1") + box(b"moov", alpha + pictures) + box(b"mdat", bytes(30))

    found = probed(data)

    assert (found.content_type, found.width, found.height, found.frames) == ("image/heic", 32, 24, 2)


@pytest.mark.parametrize(
    "sizes",
    [
        box(b"stsz", struct.pack(">II", 0, 0), version=0),
        box(b"stsz", struct.pack(">II", 10_000, 2), version=0),
        box(b"stsz", struct.pack(">III", 0, 1, 10_000), version=0),
        box(b"stsz", struct.pack(">II", 0, 3), version=0),
        b"",
    ],
    ids=["none", "larger-than-the-file", "one-larger-than-the-file", "table-too-short", "no-table"],
)
def test_sequence_with_wrong_sizes_is_refused(sizes: bytes) -> None:
    data = ftyp(b"hevc", b"msf1") + box(b"moov", track(b"pict", sizes)) + box(b"mdat", bytes(30))

    with pytest.raises(UndecodableImageError):
        probed(data)


def test_sequence_without_pictures_is_refused() -> None:
    sizes = box(b"stsz", struct.pack(">II", 2, 2), version=0)
    head = ftyp(b"hevc", b"msf1")

    with pytest.raises(UndecodableImageError, match="sequence has no pictures"):
        probed(head + box(b"moov", track(b"soun", sizes)) + box(b"mdat", bytes(30)))
    with pytest.raises(UndecodableImageError, match="width or height is zero"):
        probed(head + box(b"moov", track(b"pict", sizes, size=(0, 24))) + box(b"mdat", bytes(30)))


@pytest.mark.parametrize("size", [0, 1, 8, 15, 18, 4100])
def test_type_box_of_a_wrong_size_is_refused(size: int) -> None:
    data = struct.pack(">I", size) + heif()[4:] + bytes(5_000)

    with pytest.raises(UndecodableImageError, match="type box"):
        probed(data)


def test_pixels_of_a_sequence_are_those_of_its_primary_picture_too() -> None:
    sizes = box(b"stsz", struct.pack(">II", 1, 10), version=0)
    film = box(b"moov", track(b"pict", sizes, size=(1, 1)))
    data = heif((4_000, 4_000), major=b"hevc", items=(b"", b"", film))

    with pytest.raises(ImageLimitError, match="10 frames"):
        probed(data)


def test_primary_picture_without_data_is_refused() -> None:
    table = struct.pack(">HHHH", 1, 1, 0, 0)

    with pytest.raises(UndecodableImageError, match="no data"):
        probed(heif(items=(box(b"iloc", b"\x44\0" + table, version=0), b"", b"")))


@pytest.mark.parametrize(("version", "sizes"), [(3, b"\x44\0"), (0, b"\x34\0"), (1, b"\x44\x41")])
def test_locations_of_an_unknown_shape_are_refused(version: int, sizes: bytes) -> None:
    with pytest.raises(UndecodableImageError, match="location block"):
        probed(heif(items=(box(b"iloc", sizes + bytes(64), version=version), b"", b"")))
