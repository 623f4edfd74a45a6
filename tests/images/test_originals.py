"""Originals as descriptors: read only, with a position of their own, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.errors import SpoolFullError
from app.images.originals import MEMORY_BYTES, original_descriptor
from app.storage.base import Body
from app.storage.spool import Spool, SpooledBody
from tests.fakes.memory_body import MemoryBody

LARGE = os.urandom(1024) * (MEMORY_BYTES // 1024 + 1)


def spooled(folder: Path, content: bytes, *, memory_bytes: int) -> SpooledBody:
    with Spool(folder, memory_bytes=memory_bytes, max_bytes=10 * MEMORY_BYTES) as spool:
        spool.write(content)
        return spool.finish()


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


KINDS: dict[str, Callable[[Path], Body]] = {
    "small in memory": lambda _: MemoryBody(b"a photo"),
    "large in memory": lambda _: MemoryBody(LARGE),
    "small spooled": lambda folder: spooled(folder, b"a photo", memory_bytes=100),
    "large spooled": lambda folder: spooled(folder, LARGE, memory_bytes=2 * len(LARGE)),
    "file": lambda folder: spooled(folder, LARGE, memory_bytes=0),
}


@pytest.fixture(params=KINDS)
def body(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Body]:
    made = KINDS[request.param](tmp_path)
    yield made
    if isinstance(made, SpooledBody):
        made.close()


def test_an_original_can_be_read_whole_from_its_first_byte(body: Body, tmp_path: Path) -> None:
    with original_descriptor(body, tmp_path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        content = file.read()

    with body.open() as stream:
        assert content == stream.read()


def test_an_original_can_never_be_written(body: Body, tmp_path: Path) -> None:
    refused = pytest.raises(OSError, match=r"Bad file descriptor|Operation not permitted")
    with original_descriptor(body, tmp_path) as descriptor, refused:
        os.pwrite(descriptor, b"x", 0)


def test_two_processes_do_not_move_each_others_position(body: Body, tmp_path: Path) -> None:
    with original_descriptor(body, tmp_path) as one, original_descriptor(body, tmp_path) as other:
        os.lseek(one, 5, os.SEEK_SET)

        assert os.lseek(other, 0, os.SEEK_CUR) == 0


def test_nothing_is_left_behind(body: Body, tmp_path: Path) -> None:
    before = open_descriptors()

    with pytest.raises(KeyError), original_descriptor(body, tmp_path):
        raise KeyError

    assert open_descriptors() <= before  # others of this process may have closed some
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [LARGE], ids=["large"])
def test_a_folder_without_room_is_told(tmp_path: Path, content: bytes) -> None:
    before = open_descriptors()

    with pytest.raises(SpoolFullError) as caught, original_descriptor(MemoryBody(content), tmp_path / "lost"):
        pass

    assert caught.value.retry_after_seconds == 5
    assert open_descriptors() <= before


def test_a_file_of_its_own_is_not_copied(tmp_path: Path) -> None:
    with (
        spooled(tmp_path, LARGE, memory_bytes=0) as body,
        original_descriptor(body, tmp_path / "lost") as descriptor,
    ):
        assert os.fstat(descriptor).st_size == len(LARGE)
