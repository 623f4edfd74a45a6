"""The spool: bounded memory, no traces, independent readers, every failure of the disk one clear error."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import PayloadTooLargeError, SpoolFullError
from app.storage.spool import Spool, SpooledBody
from tests.fakes.bodies import pattern
from tests.fakes.descriptors import opened_in

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


def spool_of(
    directory: Path, content: bytes, *, memory_bytes: int = MIB, chunk_bytes: int = 64 * 1024
) -> SpooledBody:
    spool = Spool(directory, memory_bytes=memory_bytes, max_bytes=100 * MIB)
    for at in range(0, len(content), chunk_bytes):
        spool.write(content[at : at + chunk_bytes])
    return spool.finish()


@pytest.mark.parametrize("size_bytes", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB])
def test_body_has_the_bytes_size_and_digests_that_were_written(tmp_path: Path, size_bytes: int) -> None:
    content = pattern(size_bytes)

    with spool_of(tmp_path, content) as body:
        with body.open() as reader:
            found = reader.read()

        assert found == content
        assert body.size_bytes == size_bytes
        assert body.sha256 == hashlib.sha256(content).hexdigest()
        assert body.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("size_bytes", [1000, 3 * MIB])
def test_a_body_that_goes_to_no_store_has_no_md5_and_says_so(tmp_path: Path, size_bytes: int) -> None:
    content = pattern(size_bytes)
    spool = Spool(tmp_path, max_bytes=size_bytes, with_md5=False)
    spool.write(content)

    with spool.finish() as body:
        assert body.sha256 == hashlib.sha256(content).hexdigest()
        with pytest.raises(ValueError, match="no object store"):
            _ = body.md5


@pytest.mark.parametrize("size_bytes", [1000, 3 * MIB])
def test_readers_do_not_move_each_other(tmp_path: Path, size_bytes: int) -> None:
    content = pattern(size_bytes)

    with spool_of(tmp_path, content) as body, body.open() as first, body.open() as second:
        head = first.read(400)
        second.seek(-100, os.SEEK_END)
        tail = second.read()
        rest = first.read()

    assert head + rest == content
    assert tail == content[-100:]


@pytest.mark.parametrize("size_bytes", [1000, 3 * MIB])
def test_reader_seeks_like_a_file(tmp_path: Path, size_bytes: int) -> None:
    content = pattern(size_bytes)

    with spool_of(tmp_path, content) as body, body.open() as reader:
        assert reader.seekable()
        assert reader.seek(500) == 500
        assert reader.read(10) == content[500:510]
        assert reader.seek(-5, os.SEEK_CUR) == 505
        assert reader.tell() == 505
        assert reader.read(5) == content[505:510]
        assert reader.seek(0, os.SEEK_END) == size_bytes
        assert reader.read() == b""
        with pytest.raises(ValueError, match="negative"):
            reader.seek(-1)


def test_many_threads_read_one_body_at_once(tmp_path: Path) -> None:
    content = pattern(4 * MIB)

    def read(body: SpooledBody) -> bytes:
        with body.open() as reader:
            return reader.read()

    with spool_of(tmp_path, content) as body, ThreadPoolExecutor(8) as pool:
        assert all(found == content for found in pool.map(read, [body] * 32))


def test_reader_outlives_the_body_and_reads_no_other_file(tmp_path: Path) -> None:
    content = pattern(2 * MIB)
    body = spool_of(tmp_path, content)

    with body.open() as reader:
        body.close()
        with (tmp_path / "other").open("wb+") as other:
            other.write(b"x" * 3 * MIB)
            assert reader.read() == content


@pytest.mark.parametrize("memory_bytes", [0, 100])
def test_a_body_gives_a_descriptor_for_reading_only_where_it_has_a_file(tmp_path: Path, memory_bytes: int) -> None:
    with Spool(tmp_path, memory_bytes=memory_bytes, max_bytes=100) as spool:
        spool.write(b"a photo")
        body = spool.finish()

    descriptor = body.open_descriptor()
    body.close()

    assert (descriptor is None) == (memory_bytes == 100)
    if descriptor is not None:
        assert os.read(descriptor, 100) == b"a photo"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)
    with pytest.raises(ValueError, match="closed"):
        body.open_descriptor()


def test_closed_body_and_spool_say_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10)
    spool.write(b"x")
    body = spool.finish()

    body.close()
    body.close()
    spool.close()

    with pytest.raises(ValueError, match="closed"):
        body.open()
    with pytest.raises(ValueError, match="closed"):
        spool.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        spool.finish()


def test_body_over_the_limit_is_refused_at_the_chunk_that_exceeds_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, memory_bytes=10, max_bytes=100)
    spool.write(b"x" * 100)
    assert len(opened_in(tmp_path)) == 1

    with pytest.raises(PayloadTooLargeError, match="100 bytes"):
        spool.write(b"x")

    assert opened_in(tmp_path) == []


def test_spool_file_has_no_name_and_leaves_no_descriptor(tmp_path: Path) -> None:
    with Spool(tmp_path, memory_bytes=10, max_bytes=MIB) as spool:
        spool.write(b"x" * 1000)
        assert list(tmp_path.iterdir()) == []
        assert len(opened_in(tmp_path)) == 1
        with spool.finish() as body, body.open() as reader:
            assert list(tmp_path.iterdir()) == []
            reader.read()

    assert opened_in(tmp_path) == []


def test_unfinished_spool_is_freed_at_the_end_of_its_block(tmp_path: Path) -> None:
    def leave_early() -> None:
        with Spool(tmp_path, memory_bytes=10, max_bytes=MIB) as spool:
            spool.write(b"x" * 1000)
            assert len(opened_in(tmp_path)) == 1
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        leave_early()

    assert opened_in(tmp_path) == []


def test_memory_of_a_body_of_30_mb_stays_below_8_mb(tmp_path: Path) -> None:
    chunk = pattern(64 * 1024)
    tracemalloc.start()
    try:
        spool = Spool(tmp_path, max_bytes=100 * MIB)
        for _ in range(480):
            spool.write(chunk)
        with spool.finish() as body, body.open() as reader:
            while reader.read(256 * 1024):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert body.size_bytes == 30 * MIB
    assert peak < 4 * MIB


_FULL_DISK = """
import resource, sys
from pathlib import Path
from app.errors import SpoolFullError
from app.storage.spool import Spool

resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
spool = Spool(Path(sys.argv[1]), memory_bytes=1_000_000, max_bytes=100_000_000)
try:
    for _ in range(100):
        spool.write(bytes(100_000))
except SpoolFullError as error:
    descriptors = [path for path in Path("/proc/self/fd").iterdir() if sys.argv[1] in str(path.resolve())]
    print(type(error.__cause__).__name__, error.__cause__.errno, spool.size_bytes, len(descriptors))
"""


def test_disk_that_gets_full_while_writing_is_spool_full_and_frees_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["OSError", str(errno.EFBIG), "2100000", "0"]
    assert list(tmp_path.iterdir()) == []


def test_full_device_is_spool_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 - the spool closes it
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_options: full)
    spool = Spool(tmp_path, memory_bytes=10, max_bytes=MIB)

    with pytest.raises(SpoolFullError) as caught:
        spool.write(b"x" * 1000)

    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert caught.value.retry_after_seconds is not None
    assert full.closed


def test_missing_folder_is_spool_full_only_for_bodies_that_need_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    small = Spool(missing, memory_bytes=10, max_bytes=MIB)
    large = Spool(missing, memory_bytes=10, max_bytes=MIB)

    small.write(b"x" * 10)
    with pytest.raises(SpoolFullError):
        large.write(b"x" * 11)

    assert small.finish().size_bytes == 10


_DENIED = """
import os, sys
from pathlib import Path
from app.errors import SpoolFullError
from app.storage.spool import Spool

if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
spool = Spool(Path(sys.argv[1]), memory_bytes=10, max_bytes=1000)
try:
    spool.write(bytes(100))
except SpoolFullError as error:
    print(type(error.__cause__).__name__)
"""


def test_folder_without_permission_is_spool_full(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o500)

    done = subprocess.run(
        [sys.executable, "-c", _DENIED, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "PermissionError"
