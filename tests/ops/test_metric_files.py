"""Whatever is in a file of metrics, reading it is no error, and what was right before remains."""

from __future__ import annotations

import errno
import math
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from app.ops.metric_files import ENTRY, HEADER, MAGIC, FileReader, SeriesBook, file_name, list_files
from app.ops.metric_values import ValueFile
from app.ops.owners import Owner, find_owner
from tests.ops.metric_writers import counter, dead_owner, gauge


def written(folder: Path) -> Path:
    file = ValueFile(folder)
    counter(file, "first").inc(1)
    counter(file, "second", kind="x").inc(2)
    gauge(file, "livesum").set(-4)
    file.close()
    return file.path


def read(path: Path, reader: FileReader | None = None) -> tuple[bool, dict[str, float]]:
    reader = reader or FileReader(path, SeriesBook())
    reader.read()
    found = {series.sample: value for series, value in reader.counts()}
    return reader.is_whole, found | {series.sample: value for series, value, _ in reader.gauges()}


ALL = {"first_total": 1.0, "second_total": 2.0, "level": -4.0}


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def value_offset(path: Path, name: str) -> int:
    raw = path.read_bytes()
    offset = HEADER.size
    while True:
        length = int(ENTRY.unpack_from(raw, offset)[0])
        key = raw[offset + ENTRY.size : offset + ENTRY.size + length]
        offset += ENTRY.size + length + -length % 8
        if orjson.loads(key)[2] == name:
            return offset
        offset += 16


def test_a_whole_file_is_read_whole(tmp_path: Path) -> None:
    assert read(written(tmp_path)) == (True, ALL)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 1_000_000,
        b"garbage" * 1000,
        HEADER.pack(MAGIC, 0),
        HEADER.pack(MAGIC, 17),
        HEADER.pack(MAGIC, 2**63),
        HEADER.pack(MAGIC, 4096),
        HEADER.pack(b"PAMETRIX", 16),
    ],
    ids=["empty", "one-byte", "sparse", "garbage", "nothing", "odd", "vast", "cut", "foreign"],
)
def test_what_is_no_file_of_ours_is_skipped(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    assert read(path) == (False, {})


def test_what_is_no_file_at_all_is_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(written(tmp_path))

    for name in ("pipe", "folder", "link"):
        assert read(tmp_path / name) == (False, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0], ids=["nan", "inf", "minus-inf", "negative"])
def test_a_count_that_cannot_be_is_skipped_and_the_others_are_not(tmp_path: Path, value: float) -> None:
    path = written(tmp_path)

    overwrite(path, value_offset(path, "first"), struct.pack("<d", value))

    assert read(path) == (False, ALL | {"first_total": 0.0})


def test_a_gauge_that_is_no_number_is_skipped(tmp_path: Path) -> None:
    path = written(tmp_path)

    overwrite(path, value_offset(path, "level"), struct.pack("<d", math.nan))

    assert read(path) == (False, ALL | {"level": 0.0})


def test_a_damaged_key_ends_the_reading_and_what_was_before_it_counts(tmp_path: Path) -> None:
    path = written(tmp_path)

    overwrite(path, value_offset(path, "second") - 16, b"?")

    assert read(path) == (False, {"first_total": 1.0})


@pytest.mark.parametrize(
    "key",
    [b"?", b"\xff", b"17", b"[]", b'["counter","","a","b","c",[["x"]]]', b'["enum","","a","b","c",[]]', b'["a",[]]'],
    ids=["no-json", "no-text", "no-list", "empty", "no-pair", "no-kind", "short"],
)
def test_a_key_that_says_nothing_is_skipped_though_its_checksum_is_right(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "file"
    entry = ENTRY.pack(len(key), zlib.crc32(key)) + key.ljust(len(key) + -len(key) % 8) + bytes(16)
    path.write_bytes(HEADER.pack(MAGIC, HEADER.size + len(entry)) + entry)

    assert read(path) == (False, {})


def test_any_damage_at_all_is_no_error(tmp_path: Path) -> None:
    good = written(tmp_path).read_bytes()
    used = HEADER.unpack_from(good)[1]
    chance = random.Random(4)
    path = tmp_path / "damaged"

    for _ in range(2000):
        damaged = bytearray(good[: used + chance.randrange(64)])
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])

        _, found = read(path)

        assert found.keys() <= ALL.keys()
        assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 100),
        lambda path: overwrite(path, 0, b"garbage!"),
        lambda path: overwrite(path, 0, bytes(1000)),
        lambda path: overwrite(path, value_offset(path, "second"), struct.pack("<d", 1.5)),
    ],
    ids=["emptied", "cut", "overwritten", "zeroed", "fallen"],
)
def test_what_was_read_before_the_damage_remains(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = written(tmp_path)
    reader = FileReader(path, SeriesBook())
    assert read(path, reader) == (True, ALL)

    damage(path)

    assert read(path, reader) == (False, ALL)


def test_what_grows_is_read_on_from_where_it_ended(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    counter(file, "first").inc(1)
    reader = FileReader(file.path, SeriesBook())
    assert read(file.path, reader) == (True, {"first_total": 1.0})

    counter(file, "first").inc(1)
    counter(file, "second").inc(5)

    assert read(file.path, reader) == (True, {"first_total": 2.0, "second_total": 5.0})


def test_an_entry_that_is_being_written_is_read_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    overwrite(path, value_offset(path, "second") - 16, b"?")
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        found = real(descriptor, length, offset)
        if length > HEADER.size:
            path.write_bytes(whole)
        return found

    monkeypatch.setattr(os, "pread", pread)

    assert read(path) == (True, ALL)


def test_an_error_of_the_system_is_known_from_damage_because_it_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    reader = FileReader(path, SeriesBook())

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        reader.read()
    was_readable = reader.is_readable
    reader.read()

    assert (was_readable, reader.is_readable) == (False, True)
    assert dict(read(path, reader)[1]) == ALL


def test_a_file_that_is_gone_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileReader(tmp_path / "gone", SeriesBook()).read()


def test_a_series_is_one_object_in_all_files(tmp_path: Path) -> None:
    book = SeriesBook()
    readers = [FileReader(written(tmp_path), book) for _ in range(2)]

    for reader in readers:
        reader.read()

    first, second = ([series for series, _ in reader.counts()] for reader in readers)
    assert [id(series) for series in first] == [id(series) for series in second]


def test_a_folder_lists_the_files_of_processes_and_no_others(tmp_path: Path) -> None:
    here = find_owner(os.getpid())
    names = [
        file_name("worker", here, "0123abcd"),
        file_name("management", dead_owner(), "0123abcd") + ".new",
    ]
    for name in (*names, "archive", "lock", "worker-1-2-0123ABCD.values", "worker-1-2-0123abcd.values~", "notes"):
        (tmp_path / name).touch()

    found = list_files(tmp_path)

    assert [name.text for name in found] == sorted(names)
    assert [(name.role, name.owner.lives(), name.is_unfinished) for name in found] == [
        ("management", False, True),
        ("worker", True, False),
    ]


def test_a_process_that_has_a_dead_ones_number_is_another(tmp_path: Path) -> None:
    here = find_owner(os.getpid())
    (tmp_path / file_name("worker", Owner(here.pid, here.started - 1, here.boot), "0123abcd")).touch()

    assert [name.owner.lives() for name in list_files(tmp_path)] == [False]
