"""Entries that one process writes alone: written without a lock, never lost for long, gone with their process."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from app.ops.owners import Owner, find_owner
from app.ops.state import OwnedEntry, StatePage
from app.ops.state_layout import SLOT_BYTES, SLOTS, offset_of
from tests.fakes.clocks import HandClock
from tests.server.running import until

ROOT = Path(__file__).resolve().parents[2]
ME = find_owner(os.getpid())


def dead(number: int) -> Owner:
    """Return a process that is gone: it had the number of this one, and began at another time."""
    return replace(ME, started=ME.started + number + 1)


def put(page: StatePage, name: str, payload: bytes) -> bool:
    return page.change(name, lambda _: payload)


def test_an_own_entry_is_written_without_the_lock_once_it_has_its_place(page: StatePage, path: Path) -> None:
    own = page.own("w")
    first = own.write(b"1")
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    written = [own.write(payload) for payload in (b"2", b"3", b"4")]

    found = StatePage(path).read_owned("w")
    os.close(descriptor)
    assert (first, written) == (True, [True] * 3)
    assert found is not None
    assert (found.name, found.owner, found.payload) == ("w", ME, b"4")


def test_a_write_of_an_own_entry_that_dies_midway_leaves_what_was_said_before(
    page: StatePage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = page.own("w")
    own.write(b"1")
    own.write(b"2")
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, raw, offset: really(descriptor, raw[:50], offset))

    written = own.write(b"3")
    monkeypatch.undo()

    assert not written
    assert StatePage(path).read("w") == b"2"
    assert own.write(b"4")
    assert StatePage(path).read("w") == b"4"
    assert page.works


def test_an_own_entry_is_removed_by_its_owner_and_by_no_other(page: StatePage) -> None:
    own, others = page.own("w"), page.own("w", dead(1))
    own.write(b"1")

    others.remove()
    kept = page.read("w")
    own.remove()

    assert (kept, page.read("w")) == (b"1", None)


def test_an_own_entry_comes_back_on_a_page_that_was_made_anew(page: StatePage, path: Path, clock: HandClock) -> None:
    own = page.own("w")
    own.write(b"1")
    path.unlink()
    clock.advance(1)
    page.read("x")
    kept = StatePage(path).read_owned("w")

    own.write(b"2")

    assert kept is not None
    assert (kept.name, kept.owner, kept.payload) == ("w", ME, b"1")
    assert StatePage(path).read("w") == b"2"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_own_entry_whose_place_was_lost_has_one_again_within_a_second(
    page: StatePage, path: Path, clock: HandClock, writes: int
) -> None:
    own, other = page.own("w"), StatePage(path)
    own.write(b"1")
    with path.open("r+b") as file:
        file.seek(offset_of(0))
        file.write(os.urandom(SLOT_BYTES))
    put(other, "taken", b"x")

    for _ in range(writes):
        own.write(b"2")
    clock.advance(1)
    own.write(b"3")
    own.write(b"4")
    put(other, "taken", b"y")

    found = StatePage(path).entries()
    assert found is not None
    assert (found["w"], found["taken"]) == (b"4", b"y")
    assert page.losses == (0 if writes else 1)  # who has written again has healed it before it was missed


def test_an_own_entry_on_a_full_page_is_not_written_and_looks_for_a_place_once_a_second(
    page: StatePage, clock: HandClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(SLOTS):
        put(page, f"n{number}", b"")
    own, looks = page.own("w"), list[int]()
    really = fcntl.flock

    def counted(descriptor: int, operation: int) -> None:
        looks.append(operation)
        really(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", counted)

    refused = [own.write(b"1") for _ in range(5)]
    looked = len(looks)
    page.remove("n7")
    clock.advance(1)

    assert refused == [False] * 5
    assert looked == 2  # locked and let go, once
    assert own.write(b"2")
    assert page.read("w") == b"2"
    troubles = [vars(record)["trouble"] for record in caplog.records if "trouble" in vars(record)]
    assert troubles[0] == "it has no room for another entry"


def test_a_fork_writes_nothing_in_the_name_of_its_parent(page: StatePage) -> None:
    own = page.own("w")
    own.write(b"1")

    child = os.fork()
    if child == 0:
        os._exit(int(own.write(b"2") or own.remove()))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert page.read("w") == b"1"


def test_entries_of_processes_that_are_gone_are_passed_over_and_removed(page: StatePage, path: Path) -> None:
    page.own("w/1").write(b"1")
    page.own("w/2", dead(2)).write(b"2")
    page.own("v/3", dead(3)).write(b"3")
    put(page, "shared", b"4")

    found = page.owned("w/")

    assert found == [OwnedEntry("w/1", ME, b"1")]
    assert StatePage(path).entries() == {"w/1": b"1", "shared": b"4"}
    assert page.losses == 0


def test_whoever_only_looks_passes_over_them_too_and_removes_nothing(page: StatePage, path: Path) -> None:
    page.own("w/2", dead(2)).write(b"2")

    found = StatePage(path, writable=False).owned()

    assert found == []
    assert page.read("w/2") == b"2"


def test_an_entry_that_a_new_process_has_taken_over_is_not_removed_with_the_old_one(
    page: StatePage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.own("w", dead(1)).write(b"old")
    newcomer = StatePage(path).own("w")
    really = Owner.lives
    looks: list[Owner] = []

    def lives(self: Owner) -> bool:
        looks.append(self)
        alive = really(self)
        if len(looks) == 1:
            newcomer.write(b"new")  # the number is used again between the look and the removal
        return alive

    monkeypatch.setattr(Owner, "lives", lives)

    page.owned()

    assert [really(look) for look in looks[:2]] == [False, True]
    assert page.read("w") == b"new"


def test_ten_thousand_deaths_leave_room_for_all_that_live(page: StatePage, path: Path) -> None:
    put(page, "breaker/a", b"holds")
    living = page.own("w/living")

    for number in range(10_000):
        assert page.own(f"w/{number}", dead(number)).write(b"1"), number
    written = living.write(b"2")

    assert written
    assert [entry.name for entry in page.owned("w/") or []] == ["w/living"]
    assert StatePage(path).entries() == {"breaker/a": b"holds", "w/living": b"2"}
    assert page.losses == 0


WRITER = """
import os, struct, sys
from pathlib import Path
from app.ops.state import StatePage

own = StatePage(Path(sys.argv[1])).own(f"w/{os.getpid()}")
number = 0
while True:
    number += 1
    own.write(struct.pack("<Q", number) * (1 + number % 30))
"""


def test_processes_that_are_killed_while_they_write_leave_nothing_torn_and_nothing_behind(path: Path) -> None:
    page = StatePage(path)  # with a clock that goes on: a lock that was kept too long is asked for again

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT)

    def numbers() -> dict[str, int]:
        found = {entry.name: entry.payload for entry in page.owned("w/") or []}
        for payload in found.values():
            (number,) = struct.unpack_from("<Q", payload)
            assert payload == struct.pack("<Q", number) * (1 + number % 30)
        return {name: struct.unpack_from("<Q", payload)[0] for name, payload in found.items()}

    def are_there(names: set[str]) -> bool:
        return numbers().keys() == names

    def went_on(before: dict[str, int]) -> bool:
        return all(numbers()[name] > number + 100 for name, number in before.items())

    running = [start() for _ in range(3)]
    try:
        for _ in range(4):
            until(partial(are_there, {f"w/{process.pid}" for process in running}), "all writers, and no other")
            until(partial(went_on, numbers()), "more writes")
            victim = running.pop(0)
            victim.kill()
            victim.wait()
            running.append(start())
    finally:
        for process in running:
            process.kill()
            process.wait()

    assert page.owned() == []
    until(lambda: page.owned() == [] and StatePage(path).entries() == {}, "the last of them to be removed")


def test_an_owned_entry_of_a_lost_page_is_none(tmp_path: Path) -> None:
    page = StatePage(tmp_path / "none", writable=False)

    assert page.owned() is None
    assert page.read_owned("w") is None
    assert not page.own("w").write(b"1")


def test_an_entry_without_an_owner_is_no_owned_entry(page: StatePage) -> None:
    put(page, "a", b"1")

    assert page.read_owned("a") is None
    assert page.owned() == []
