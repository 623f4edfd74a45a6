"""Exif: what is told, and that nothing in it can refuse a photo."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.images.exif import NO_EXIF, read_exif
from tests.fakes.exif import ExifFacts, ascii_entry, exif_block, tiff


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_all_facts_are_read_in_both_byte_orders(endian: str, prefix: bytes) -> None:
    facts = ExifFacts(orientation=6, latitude=59.9139, longitude=10.7522)

    found = read_exif(prefix + exif_block(facts, endian=endian))

    assert found.orientation == 6
    assert found.camera == "Fujifilm X-T5"
    assert found.taken_at == datetime(2024, 5, 1, 10, 30, tzinfo=UTC)
    assert found.latitude == pytest.approx(59.9139, abs=1e-6)
    assert found.longitude == pytest.approx(10.7522, abs=1e-6)


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(-33.8688, 151.2093), (-22.9, -43.2), (90.0, -180.0), (0.0, 0.0)]
)
def test_side_of_the_equator_and_of_greenwich_is_kept(latitude: float, longitude: float) -> None:
    found = read_exif(exif_block(ExifFacts(latitude=latitude, longitude=longitude)))

    assert found.latitude == pytest.approx(latitude, abs=1e-6)
    assert found.longitude == pytest.approx(longitude, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS R5", "Canon EOS R5"),
        ("NIKON CORPORATION", "NIKON Z 8", "NIKON Z 8"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("Apple", None, "Apple"),
        (None, "X100", "X100"),
        ("  ", "\x01\x02", None),
        ("A\nB\tC", "x\x1b[31my\u202ez", "A B C x [31my z"),
        ("Ä" * 300, "ö" * 300, "Ä" * 128),
    ],
)
def test_camera_is_cleaned_and_short(make: str | None, model: str | None, camera: str | None) -> None:
    found = read_exif(exif_block(ExifFacts(make=make, model=model)))

    assert found.camera == camera


def test_camera_in_latin_1_is_read() -> None:
    block = tiff([(0x0110, 2, 5, b"Caf\xe9\0")])

    assert read_exif(block).camera == "Café"


@pytest.mark.parametrize(
    ("taken", "offset", "expected"),
    [
        ("2024:05:01 12:30:00", None, datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024:05:01 12:30:00", "-09:30", datetime(2024, 5, 1, 22, 0, tzinfo=UTC)),
        ("2024:05:01 12:30:00", "nonsense", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024-05-01T12:30:00", "+00:00", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("0000:00:00 00:00:00", None, None),
        ("    :  :     :  :  ", None, None),
        ("2024:02:30 12:30:00", None, None),
        ("0001:01:01 00:00:00", "+14:00", None),
        ("9999:12:31 23:59:59", "-14:00", None),
        ("2024:05:01 12:30:00", "+99:99", None),
        ("٢٠٢٤:05:01 12:30:00", None, None),
    ],
)
def test_time_taken_is_utc_or_nothing(taken: str, offset: str | None, expected: datetime | None) -> None:
    found = read_exif(exif_block(ExifFacts(taken=taken, offset=offset)))

    assert found.taken_at == expected
    assert found.taken_at is None or found.taken_at.tzinfo is UTC


def test_time_digitized_stands_in_for_time_taken() -> None:
    block = tiff([], [ascii_entry(0x9004, "2001:02:03 04:05:06"), ascii_entry(0x9012, "+01:00")])

    assert read_exif(block).taken_at == datetime(2001, 2, 3, 3, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(("kind", "value"), [(3, b"\0\0"), (3, b"\x09\0"), (4, b"\x06\0\0\1"), (2, b"6\0"), (3, b"")])
def test_orientation_that_makes_no_sense_is_upright(kind: int, value: bytes) -> None:
    block = tiff([(0x0112, kind, 1, value)])

    assert read_exif(block).orientation == 1


def test_orientation_as_long_number_is_read() -> None:
    assert read_exif(tiff([(0x0112, 4, 1, b"\x08\0\0\0")])).orientation == 8


@pytest.mark.parametrize(
    "place",
    [
        [(2, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1)), (4, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1))],
        [ascii_entry(1, "N"), (2, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1))],
        [
            ascii_entry(1, "N"),
            (2, 5, 3, struct.pack("<6I", 91, 1, 0, 1, 0, 1)),
            ascii_entry(3, "E"),
            (4, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1)),
        ],
        [
            ascii_entry(1, "X"),
            (2, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1)),
            ascii_entry(3, "E"),
            (4, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1)),
        ],
        [
            ascii_entry(1, "N"),
            (2, 5, 3, struct.pack("<6I", 10, 0, 0, 1, 0, 1)),
            ascii_entry(3, "E"),
            (4, 5, 3, struct.pack("<6I", 10, 1, 0, 1, 0, 1)),
        ],
    ],
    ids=["without-sides", "latitude-alone", "beyond-the-pole", "unknown-side", "zero-denominator"],
)
def test_place_is_whole_or_nothing(place: list[tuple[int, int, int, bytes]]) -> None:
    found = read_exif(tiff([], None, place))

    assert (found.latitude, found.longitude) == (None, None)


@given(st.binary(max_size=400))
@example(b"II*\0\xff\xff\xff\xff")
@example(b"MM\0*")
def test_arbitrary_bytes_never_raise(block: bytes) -> None:
    found = read_exif(block)

    assert 1 <= found.orientation <= 8


@given(
    flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 400),
    endian=st.sampled_from("<>"),
)
def test_damaged_block_never_raises(flips: list[tuple[int, int]], cut: int, endian: str) -> None:
    block = bytearray(exif_block(ExifFacts(latitude=1.0, longitude=2.0), endian=endian))
    for at, value in flips:
        block[at % len(block)] = value

    found = read_exif(bytes(block[:cut]))

    assert 1 <= found.orientation <= 8
    assert found.latitude is None or -90 <= found.latitude <= 90
    assert found.longitude is None or -180 <= found.longitude <= 180
    assert found.camera is None or (found.camera.isprintable() and len(found.camera) <= 128)


def test_block_that_is_no_tiff_says_nothing() -> None:
    assert read_exif(b"this is no Exif") == NO_EXIF
