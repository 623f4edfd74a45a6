"""The file is whole or not there, and a slot that is made free never says what it said before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.ops.owners import boot_id, find_owner
from app.ops.state_file import OpenedPage, PageLostError, make_page, open_whole
from app.ops.state_layout import PAGE_BYTES, SLOT_BYTES, offset_of, pack_copy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "page"
    make_page(made, {"a": b"1"})
    return made


def test_a_page_is_made_with_its_room_its_entries_and_their_owners(tmp_path: Path) -> None:
    path, me = tmp_path / "page", find_owner(os.getpid())

    make_page(path, {"a": b"1", "b": b"2"}, owners={"b": me}, now=lambda: 5.0)
    opened = open_whole(path, writable=False)

    entries = [opened.entry(index) for index in range(3)]
    assert [entry and (entry.name, entry.payload, entry.owner) for entry in entries] == [
        ("a", b"1", None),
        ("b", b"2", me),
        None,
    ]
    assert opened.header is not None
    assert (opened.header.created, opened.header.boot_id) == (5.0, boot_id())
    assert path.stat().st_blocks * 512 >= PAGE_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "page" / "in the way").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        make_page(tmp_path / "page", {})

    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_page_that_is_cut_off_is_not_whole(path: Path) -> None:
    os.truncate(path, PAGE_BYTES - 1)

    with pytest.raises(PageLostError, match="damaged"):
        open_whole(path, writable=True)


def test_another_file_under_the_name_is_seen(path: Path) -> None:
    opened = open_whole(path, writable=True)
    before = opened.is_at(path)

    make_page(path, {})

    assert (before, opened.is_at(path)) == (True, False)


@pytest.mark.parametrize("newer", [0, 1])
def test_a_slot_is_freed_in_an_order_that_never_shows_what_was_said_before(path: Path, newer: int) -> None:
    opened = open_whole(path, writable=True)
    opened.write(pack_copy("a", b"old", 5), 0, 1 - newer)
    opened.write(pack_copy("a", b"new", 6), 0, newer)
    entry = opened.entry(0)
    assert entry is not None

    class Watching(OpenedPage):
        def write(self, raw: bytes, index: int, copy: int = 0) -> None:
            super().write(raw, index, copy)
            left = self.entry(index)
            said.append(None if left is None else left.payload)

    said: list[bytes | None] = []
    Watching(path, writable=True).blank(0, entry)

    assert said == [b"new", None]
    assert opened.entry(0) is None
    assert opened.was_freed(0)


def test_a_slot_that_was_damaged_or_cut_off_was_not_freed(path: Path) -> None:
    opened = open_whole(path, writable=True)

    standing = opened.was_freed(0)
    opened.write(os.urandom(SLOT_BYTES), 0)
    damaged = opened.was_freed(0)
    os.truncate(path, offset_of(0) + 1)

    assert (standing, damaged, opened.was_freed(0)) == (True, False, False)


def test_a_slot_that_says_the_same_is_read_again_all_the_same(path: Path) -> None:
    opened, other = open_whole(path, writable=False), open_whole(path, writable=True)
    first, again = opened.entry(0), opened.entry(0)

    other.write(pack_copy("a", b"2", 9), 0, 1)
    changed = opened.entry(0)

    assert first is again
    assert changed is not None
    assert changed.payload == b"2"
