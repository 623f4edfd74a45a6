"""The page keeps what it can, and whatever becomes of the file, nobody who uses it sees an error."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.ops.owners import boot_id
from app.ops.state import VARIABLE, StatePage, find_page
from app.ops.state_file import make_page
from app.ops.state_layout import PAGE_BYTES, PAYLOAD_BYTES_MAX, SLOT_BYTES, SLOTS, offset_of
from tests.fakes.clocks import HandClock


def put(page: StatePage, name: str, payload: bytes) -> bool:
    return page.change(name, lambda _: payload)


@pytest.fixture
def troubles(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "app.ops.state")
    return lambda: [
        getattr(record, "trouble", record.message) for record in caplog.records if record.name == "app.ops.state"
    ]


def test_what_one_view_says_another_reads(page: StatePage, path: Path) -> None:
    other = StatePage(path)

    assert put(page, "a", b"1")
    assert put(page, "b", b"2")
    assert put(page, "a", b"3")

    assert (other.read("a"), other.read("b"), other.read("c")) == (b"3", b"2", None)
    assert other.entries() == {"a": b"3", "b": b"2"}
    assert page.works
    assert page.losses == 0


def test_a_change_is_given_what_holds_and_may_leave_it(page: StatePage) -> None:
    given: list[bytes | None] = []
    wanted: list[bytes | None] = [b"2", None, b"1"]

    def changed(held: bytes | None) -> bytes | None:
        given.append(held)
        return wanted.pop()

    for _ in range(3):
        page.change("a", changed)

    assert given == [None, b"1", b"1"]
    assert page.read("a") == b"2"


def test_a_page_says_when_and_in_which_boot_it_was_made(tmp_path: Path) -> None:
    make_page(tmp_path / "page", {"a": b"1"}, now=lambda: 5.0)
    page = StatePage(tmp_path / "page")

    assert page.header is not None
    assert (page.header.created, page.header.boot_id) == (5.0, boot_id())
    assert page.read("a") == b"1"


def test_it_has_all_its_room_from_the_beginning(path: Path) -> None:
    assert path.stat().st_size == PAGE_BYTES
    assert path.stat().st_blocks * 512 >= PAGE_BYTES
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_page_takes_no_more_names_and_keeps_those_it_has(
    page: StatePage, troubles: Callable[[], list[str]]
) -> None:
    taken = [put(page, f"n{number}", b"x" * PAYLOAD_BYTES_MAX) for number in range(SLOTS)]

    assert all(taken)
    assert not put(page, "one more", b"")
    assert put(page, "n5", b"still")
    assert page.read("n5") == b"still"
    assert troubles()[0] == "it has no room for another entry"


def test_changes_of_many_threads_are_all_counted(page: StatePage) -> None:
    def count() -> None:
        for _ in range(50):
            while not page.change("n", lambda raw: str(int(raw or b"0") + 1).encode()):
                pass

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert page.read("n") == b"400"


def test_a_page_that_is_gone_is_made_anew_with_what_it_said(
    page: StatePage, path: Path, clock: HandClock, troubles: Callable[[], list[str]]
) -> None:
    put(page, "a", b"1")
    path.unlink()

    at_once = page.read("a")
    clock.advance(1)
    later = page.read("a")

    assert (at_once, later) == (b"1", b"1")
    assert StatePage(path).read("a") == b"1"
    assert page.losses == 1
    assert troubles() == ["the state page of this host was made anew"]


def test_all_go_over_to_the_page_that_one_has_made_anew(page: StatePage, path: Path, clock: HandClock) -> None:
    other = StatePage(path, clock=clock)
    put(other, "a", b"1")
    put(page, "b", b"2")
    path.unlink()
    clock.advance(1)

    put(page, "a", b"3")

    assert other.read("a") == b"3"
    assert (page.losses, other.losses) == (1, 0)


def test_a_folder_that_is_gone_comes_back_with_the_page(tmp_path: Path, clock: HandClock) -> None:
    folder = tmp_path / "run" / "state"
    page = StatePage(folder / "page", clock=clock)

    assert put(page, "a", b"1")
    assert StatePage(folder / "page").read("a") == b"1"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("length", [0, 100, 1024, 1500, offset_of(1), PAGE_BYTES - 1])
def test_a_page_that_is_cut_off_kills_nobody_and_is_whole_a_second_later(
    page: StatePage, path: Path, clock: HandClock, length: int
) -> None:
    put(page, "a", b"1")
    os.truncate(path, length)

    at_once = page.read("a")
    written = put(page, "b", b"2")
    clock.advance(1)
    page.read("b")

    assert at_once in {b"1", None}
    assert written
    assert put(page, "b", b"3")
    assert StatePage(path).read("b") == b"3"
    assert path.stat().st_size == PAGE_BYTES


def test_noise_in_place_of_the_page_says_nothing_and_is_replaced(
    page: StatePage, path: Path, clock: HandClock, troubles: Callable[[], list[str]]
) -> None:
    put(page, "a", b"1")
    path.write_bytes(os.urandom(PAGE_BYTES))

    at_once = page.read("a")
    clock.advance(1)

    assert at_once is None
    assert (page.read("a"), page.entries()) == (None, {})
    assert put(page, "a", b"2")
    assert troubles() == [
        "the state page of this host has lost an entry",
        "the state page of this host was made anew",
    ]


def test_a_damaged_slot_is_lost_once_and_used_again(
    page: StatePage, path: Path, troubles: Callable[[], list[str]]
) -> None:
    put(page, "a", b"1")
    put(page, "b", b"2")
    with path.open("r+b") as file:
        file.seek(offset_of(0))
        file.write(os.urandom(SLOT_BYTES))

    lost = [page.read("a"), page.read("a")]

    assert lost == [None, None]
    assert page.read("b") == b"2"
    assert put(page, "c", b"3")
    assert page.read("c") == b"3"
    assert troubles() == ["the state page of this host has lost an entry"]


def test_a_reader_that_meets_a_write_looks_again(page: StatePage, monkeypatch: pytest.MonkeyPatch) -> None:
    for payload in (b"1", b"2", b"3"):
        put(page, "a", payload)
    really = os.pread
    looks: list[int] = []

    def torn_once(descriptor: int, length: int, offset: int) -> bytes:
        raw = really(descriptor, length, offset)
        if length != SLOT_BYTES:
            return raw
        looks.append(offset)
        return b"torn" + raw[4:] if len(looks) == 1 else raw  # the first copy is the newer one

    monkeypatch.setattr(os, "pread", torn_once)

    assert page.read("a") == b"3"
    assert len(looks) == 2


def test_an_entry_that_stands_elsewhere_now_is_found(page: StatePage, path: Path) -> None:
    put(page, "a", b"1")
    make_page(path, {"b": b"2", "a": b"3"})
    page.close()

    assert page.read("a") == b"3"


def test_whoever_may_not_repair_changes_a_page_and_makes_none(path: Path, tmp_path: Path) -> None:
    page, none = StatePage(path, repairs=False), StatePage(tmp_path / "none", repairs=False)

    assert put(page, "a", b"1")
    assert not put(none, "a", b"1")
    assert not (tmp_path / "none").exists()


def test_whoever_only_looks_neither_changes_nor_makes(
    path: Path, tmp_path: Path, troubles: Callable[[], list[str]]
) -> None:
    reader = StatePage(path, writable=False)

    assert reader.entries() == {}
    assert not put(reader, "a", b"1")
    assert StatePage(tmp_path / "none", writable=False).entries() is None
    assert StatePage(tmp_path / "none", writable=False).header is None
    assert not (tmp_path / "none").exists()
    assert troubles()[0] == "it cannot be written"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_page_that_cannot_be_written_is_still_read(
    page: StatePage, path: Path, code: int, monkeypatch: pytest.MonkeyPatch, troubles: Callable[[], list[str]]
) -> None:
    put(page, "a", b"1")
    monkeypatch.setattr(os, "open", _refusing(os.O_RDWR, code))
    refused = StatePage(path)

    for _ in range(3):
        assert refused.read("a") == b"1"
        assert not put(refused, "a", b"2")

    assert not refused.works
    assert refused.losses == 1
    assert troubles() == ["it cannot be written"]


def _refusing(flag: int, code: int) -> Callable[..., int]:
    really = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & flag:
            raise OSError(code, os.strerror(code))
        return really(path, flags, mode, dir_fd=dir_fd)

    return opened


def test_a_full_disk_is_counted_and_logged_once_and_leaves_nothing_behind(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch, troubles: Callable[[], list[str]]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    page = StatePage(tmp_path / "page", clock=clock)
    answers = []
    for _ in range(3):
        answers += [page.read("a"), put(page, "a", b"1")]
        clock.advance(1)
    monkeypatch.undo()

    assert answers == [None, False] * 3
    assert list(tmp_path.iterdir()) == []
    assert len(troubles()) == page.losses == 2  # for reading and for writing
    assert put(page, "a", b"1")
    assert page.works


def test_a_write_that_ends_early_is_no_change(page: StatePage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(page, "a", b"1")
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, raw, offset: really(descriptor, raw[:50], offset))

    changed = put(page, "a", b"2")

    assert not changed
    assert page.read("a") == b"1"


def test_a_place_that_is_no_file_is_a_lost_page(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()

    for name in ("folder", "link/x/y", "file/page"):
        page = StatePage(tmp_path / name)
        assert (page.read("a"), put(page, "a", b"1")) in {(None, False), (None, True)}
    assert StatePage(tmp_path / "pipe", writable=False).read("a") is None


@pytest.fixture
def foreign_lock(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a_lock_that_somebody_keeps_is_waited_for_briefly_and_not_again_for_a_second(
    page: StatePage, clock: HandClock, foreign_lock: int, troubles: Callable[[], list[str]]
) -> None:
    first, waited = put(page, "a", b"1"), sum(clock.slept)
    second = put(page, "a", b"1")
    waited_again = sum(clock.slept) - waited
    fcntl.flock(foreign_lock, fcntl.LOCK_UN)
    clock.advance(1)
    third = put(page, "a", b"1")

    assert (first, second, third) == (False, False, True)
    assert 0.04 < waited < 0.07
    assert waited_again == 0
    assert page.read("a") == b"1"
    assert troubles() == ["another process keeps it locked", "the state page of this host is there again"]


def test_a_lock_given_back_in_time_is_taken(page: StatePage, clock: HandClock, foreign_lock: int) -> None:
    sleep = clock.sleep

    def give_back(seconds: float) -> None:
        sleep(seconds)
        fcntl.flock(foreign_lock, fcntl.LOCK_UN)

    clock.sleep = give_back  # type: ignore[method-assign]  # the other one ends meanwhile

    assert put(page, "a", b"1")
    assert len(clock.slept) == 1


def test_a_thread_waits_no_longer_than_that_for_another(page: StatePage, troubles: Callable[[], list[str]]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def slow(_: bytes | None) -> bytes:
        inside.set()
        leave.wait(10)
        return b"1"

    thread = threading.Thread(target=page.change, args=("a", slow))
    thread.start()
    inside.wait(10)

    refused = put(page, "b", b"2")
    leave.set()
    thread.join()

    assert not refused
    assert page.read("a") == b"1"
    assert troubles()[0] == "another thread keeps it locked"


def test_a_thread_that_meets_another_one_opening_waits_for_it_or_answers_nothing(
    page: StatePage, clock: HandClock
) -> None:
    put(page, "a", b"1")
    with page._looking:
        opened_before = page.read("a")
        clock.advance(2)
        looked_after_by_another = page.read("a")
    page.close()
    with page._looking:
        nothing = page.read("a")

    assert (opened_before, looked_after_by_another, nothing) == (b"1", b"1", None)
    assert page.read("a") == b"1"


def test_a_forked_child_opens_the_page_for_itself(page: StatePage) -> None:
    put(page, "a", b"1")
    with page._local, page._looking:  # as if other threads were in there at the fork
        child = os.fork()
        if child == 0:
            os._exit(0 if put(page, "b", b"2") and page.read("a") == b"1" else 1)
        _, status = os.waitpid(child, 0)

    page._pid = 0
    assert os.waitstatus_to_exitcode(status) == 0
    assert page.read("b") == b"2"
    assert page._pid == os.getpid()


def test_only_one_of_two_makes_it_anew(page: StatePage, path: Path, clock: HandClock) -> None:
    put(page, "a", b"1")
    path.unlink()
    clock.advance(1)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)

    meanwhile = page.read("a")
    os.close(folder)

    assert meanwhile == b"1"
    assert not path.exists()
    clock.advance(1)
    assert page.read("a") == b"1"
    assert path.exists()


def test_an_error_of_the_change_itself_is_nobodys_but_its_own(page: StatePage) -> None:
    def wrong(_: bytes | None) -> bytes:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        page.change("a", wrong)

    assert put(page, "a", b"1")


def test_the_page_of_a_server_is_found_by_its_environment(path: Path) -> None:
    lost: list[str] = []
    path.write_bytes(b"noise")

    found = find_page({VARIABLE: str(path.parent)}, lambda: lost.append("once"))

    assert found is not None
    assert put(found, "a", b"1")
    assert lost == ["once"]
    assert find_page({}) is None


def test_an_entry_that_was_removed_is_gone_for_all_and_no_loss(page: StatePage, path: Path, clock: HandClock) -> None:
    other = StatePage(path, clock=clock)
    put(page, "a", b"1")
    put(page, "b", b"2")
    assert other.read("a") == b"1"

    removed = [page.remove("a"), page.remove("a"), page.remove("never there")]

    assert removed == [True, True, True]
    assert (page.read("a"), other.read("a")) == (None, None)
    assert other.entries() == {"b": b"2"}
    assert (page.losses, other.losses) == (0, 0)


def test_the_place_of_a_removed_entry_is_used_again_without_a_loss(page: StatePage, path: Path) -> None:
    other = StatePage(path)
    put(page, "a", b"1")
    other.read("a")
    page.remove("a")
    put(page, "b", b"2")

    assert (other.read("a"), other.read("b"), other.losses) == (None, b"2", 0)
    assert put(page, "a", b"3")
    assert other.read("a") == b"3"


def test_an_entry_is_removed_only_when_it_still_says_what_it_should(page: StatePage) -> None:
    put(page, "a", b"1")

    page.remove("a", lambda payload: payload == b"2")
    kept = page.read("a")
    page.remove("a", lambda payload: payload == b"1")

    assert (kept, page.read("a")) == (b"1", None)


def test_nothing_is_removed_while_another_process_keeps_the_page_locked(page: StatePage, foreign_lock: int) -> None:
    assert foreign_lock >= 0
    assert not page.remove("a")
