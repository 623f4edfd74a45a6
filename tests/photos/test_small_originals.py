"""Small originals: one read of the store for a crowd, right bytes only, and no more memory than is allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from app.photos.small_originals import KEPT_SECONDS, SmallOriginals
from app.stability import Deadline, deadline_scope
from app.storage.base import ObjectCorruptError, ObjectReader, StorageTimeoutError, StorageUnavailableError
from app.storage.probe import BytesBody
from tests.fakes.bodies import pattern
from tests.fakes.clocks import HandClock
from tests.fakes.gates import PATIENCE, Flights, Gate
from tests.fakes.object_store import MemoryObjectStore
from tests.photos.world import Observer

CONTENT = pattern(300_000)
SHA256 = BytesBody(CONTENT).sha256
CROWD = 20


class Shelf:
    """Small originals over a store in memory that holds its first reader at a gate."""

    def __init__(self, *, held_bytes_max: int = 1_000_000) -> None:
        self.store = MemoryObjectStore()
        self.observer = Observer()
        self.clock = HandClock()
        self.small = SmallOriginals(self.store, self.observer, held_bytes_max=held_bytes_max, clock=self.clock)
        self.flights = self.small._flights = Flights()
        for key in "abcd":
            self.store.put(key, BytesBody(CONTENT), content_type="image/jpeg")
        self.store.calls.clear()

    def open(self, key: str = "a", sha256: str = SHA256) -> ObjectReader:
        return self.small.open(key, sha256=sha256, size_bytes=len(CONTENT))

    def read(self, key: str = "a") -> bytes:
        with self.open(key) as reader:
            return b"".join(reader)

    def crowd(self, pool: ThreadPoolExecutor, read: Callable[[], bytes], number: int = CROWD) -> list[Future[bytes]]:
        """Let many want the same while the first one stands before the store; return their answers to come."""
        gate = Gate()
        self.store.before["open"] = lambda _key: gate.stand()
        answers = [pool.submit(read) for _ in range(number)]
        self.flights.wait_for_boardings(number)
        gate.wait_for_arrival()
        self.store.before.clear()
        gate.open()
        return answers

    @property
    def opened(self) -> int:
        return sum(method == "open" for method, _ in self.store.calls)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_a_crowd_takes_one_read_of_the_store_and_so_do_those_that_follow_it(shelf: Shelf) -> None:
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [answer.result(PATIENCE) for answer in shelf.crowd(pool, shelf.read)]
    late = [shelf.read() for _ in range(180)]

    assert {*answers, *late} == {CONTENT}
    assert shelf.opened == 1
    assert shelf.observer.heard == {"shared": CROWD - 1 + 180}
    assert shelf.store.open_readers == 0


def test_what_a_crowd_wanted_is_forgotten_when_its_time_is_over(shelf: Shelf) -> None:
    with ThreadPoolExecutor(2) as pool:
        for answer in shelf.crowd(pool, shelf.read, 2):
            answer.result(PATIENCE)
    before = shelf.small.held_bytes
    shelf.clock.advance(KEPT_SECONDS)

    assert shelf.read() == CONTENT
    assert (before, shelf.small.held_bytes, shelf.opened) == (len(CONTENT), 0, 2)


def test_what_one_alone_wanted_is_not_kept(shelf: Shelf) -> None:
    assert (shelf.read(), shelf.read()) == (CONTENT, CONTENT)

    assert (shelf.opened, shelf.small.held_bytes, shelf.observer.heard) == (2, 0, {})


def test_the_leaders_failure_is_everybodys_and_is_not_kept(shelf: Shelf) -> None:
    def fail(_key: str) -> None:
        raise StorageUnavailableError("down", retry_after_seconds=3)

    shelf.store.after["open"] = fail
    with ThreadPoolExecutor(CROWD) as pool:
        errors = [answer.exception(PATIENCE) for answer in shelf.crowd(pool, shelf.read)]
    shelf.store.after.clear()

    assert {(type(error), getattr(error, "retry_after_seconds", None)) for error in errors} == {
        (StorageUnavailableError, 3)
    }
    assert shelf.opened == 1
    assert shelf.read() == CONTENT


def test_a_leader_whose_time_is_over_takes_nobody_with_it(shelf: Shelf) -> None:
    gate = Gate()
    held = threading.Event()

    def hold_first(_key: str) -> None:
        if not held.is_set():
            held.set()
            gate.stand()
            raise StorageTimeoutError("too slow")

    shelf.store.before["open"] = hold_first

    def impatient() -> bytes:
        with deadline_scope(Deadline(0.01)):
            return shelf.read()

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(impatient)
        gate.wait_for_arrival()
        follower = pool.submit(shelf.read)
        shelf.flights.wait_for_boardings(2)
        threading.Event().wait(0.02)  # the leader's deadline, which is of real time
        gate.open()

        assert isinstance(leader.exception(PATIENCE), StorageTimeoutError)
        assert follower.result(PATIENCE) == CONTENT


def test_a_follower_waits_no_longer_than_its_own_deadline(shelf: Shelf) -> None:
    gate = Gate()
    shelf.store.before["open"] = lambda _key: gate.stand()

    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(shelf.read)
        gate.wait_for_arrival()
        with deadline_scope(Deadline(0.01)), pytest.raises(StorageTimeoutError):
            shelf.open()
        gate.open()

        assert leader.result(PATIENCE) == CONTENT


def test_a_reader_that_is_left_in_the_middle_harms_no_other(shelf: Shelf) -> None:
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(shelf.open) for _ in range(2)]
        left, stays = (reader.result(PATIENCE) for reader in readers)
    next(iter(left))
    left.close()
    left.close()

    assert b"".join(stays) == CONTENT
    stays.close()


def test_damaged_bytes_are_shared_with_nobody_later(shelf: Shelf) -> None:
    with ThreadPoolExecutor(2) as pool:
        other = partial(shelf.open, sha256="0" * 64)
        for reader in shelf.crowd(pool, lambda: b"".join(other()), 2):
            assert reader.result(PATIENCE) == CONTENT  # who asked compares the digest of what it got

    shelf.store.break_reading = ObjectCorruptError("damaged")
    with pytest.raises(ObjectCorruptError):
        shelf.read()


def test_beyond_the_bound_photos_are_streamed_for_one() -> None:
    shelf = Shelf(held_bytes_max=2 * len(CONTENT))
    readers = [shelf.open(key) for key in "ab"]

    with shelf.open("c") as third:
        assert (shelf.small.held_bytes, shelf.store.open_readers) == (2 * len(CONTENT), 1)
        assert b"".join(third) == CONTENT
    readers[0].close()
    with shelf.open("d"):
        assert shelf.store.open_readers == 0
    readers[1].close()

    assert shelf.small.held_bytes == 0


def test_what_is_kept_makes_room_for_what_is_read() -> None:
    shelf = Shelf(held_bytes_max=2 * len(CONTENT))
    with ThreadPoolExecutor(2) as pool:
        for key in "abc":
            for answer in shelf.crowd(pool, partial(shelf.read, key), 2):
                answer.result(PATIENCE)

    assert shelf.small.held_bytes == 2 * len(CONTENT)
    assert (shelf.read("c"), shelf.opened) == (CONTENT, 3)
    assert (shelf.read("a"), shelf.opened) == (CONTENT, 4)
