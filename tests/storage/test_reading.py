"""The wait budget and the checked reader, on a clock that the test moves."""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from app.stability import Deadline, deadline_scope
from app.storage.base import ObjectCorruptError, ObjectInfo, StorageTimeoutError, StorageUnavailableError
from app.storage.reading import CHUNK_BYTES, CheckedReader, WaitBudget
from app.upstream.waiting import BudgetedSocketReader
from tests.fakes.bodies import pattern


class HeldClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def reader_of(
    content: bytes,
    *,
    stated: bytes | None = None,
    length: int | None = None,
    close: Callable[[bool], None] | None = None,
) -> CheckedReader:
    whole = content if stated is None else stated
    info = ObjectInfo("a", len(whole), hashlib.sha256(whole).hexdigest(), datetime.now(UTC))
    return CheckedReader(
        io.BytesIO(content),
        info=info,
        length=len(whole) if length is None else length,
        whole=length is None,
        close=close or (lambda _complete: None),
    )


def test_waits_use_the_budget_up_and_time_between_them_does_not() -> None:
    clock = HeldClock()
    budget = WaitBudget(10, clock)

    with budget.wait() as seconds:
        assert seconds == 10
        clock.now += 4
    clock.now += 1000
    with budget.wait(cap_seconds=2) as seconds:
        assert seconds == 2
        clock.now += 2

    assert budget.left_seconds() == 4


def test_used_up_budget_ends_the_next_wait_before_it_begins() -> None:
    clock = HeldClock()
    budget = WaitBudget(10, clock)
    with budget.wait():
        clock.now += 10

    with pytest.raises(StorageTimeoutError), budget.wait():
        pytest.fail("no wait may begin")


def test_failed_wait_counts_too() -> None:
    clock = HeldClock()
    budget = WaitBudget(10, clock)

    def fail() -> None:
        with budget.wait():
            clock.now += 3
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        fail()

    assert budget.left_seconds() == 7


def test_current_deadline_shortens_the_budget() -> None:
    clock = HeldClock()

    with deadline_scope(Deadline(5, clock)):
        clock.now += 2
        budget = WaitBudget(60, clock)

    assert budget.left_seconds() == 3


def test_socket_that_feeds_byte_by_byte_uses_the_budget_up() -> None:
    clock = HeldClock()
    budget = WaitBudget(3, clock)
    ours, theirs = socket.socketpair()
    with ours, theirs, BudgetedSocketReader(ours, budget) as reader:
        buffer = bytearray(10)
        for _ in range(3):
            theirs.sendall(b"x")
            assert reader.readinto(buffer) == 1
            with budget.wait():
                clock.now += 1

        with pytest.raises(StorageTimeoutError):
            reader.readinto(buffer)


def test_reader_yields_all_bytes_and_gives_back_before_the_last_chunk() -> None:
    content = pattern(3 * CHUNK_BYTES + 5)
    closed: list[bool] = []
    reader = reader_of(content, close=closed.append)
    chunks: list[bytes] = []

    for chunk in reader:
        chunks.append(chunk)
        assert closed == ([True] if len(chunks) == 4 else [])

    assert b"".join(chunks) == content
    reader.close()
    assert closed == [True]


def test_empty_object_is_given_back_too() -> None:
    closed: list[bool] = []

    assert list(reader_of(b"", close=closed.append)) == []

    assert closed == [True]


def test_altered_bytes_lose_their_last_chunk() -> None:
    content = pattern(2 * CHUNK_BYTES)
    chunks = iter(reader_of(content, stated=b"x" + content[1:]))

    assert next(chunks) == content[:CHUNK_BYTES]
    with pytest.raises(ObjectCorruptError):
        next(chunks)


def test_missing_bytes_are_never_a_clean_end() -> None:
    closed: list[bool] = []
    content = pattern(CHUNK_BYTES)
    chunks = iter(reader_of(content, stated=content + b"x", close=closed.append))

    assert next(chunks) == content
    with pytest.raises(StorageUnavailableError):
        next(chunks)

    assert closed == [False]


def test_bytes_that_end_within_a_chunk_give_nothing_of_it() -> None:
    content = pattern(CHUNK_BYTES - 1)
    closed: list[bool] = []

    with pytest.raises(StorageUnavailableError):
        next(iter(reader_of(content, stated=content + b"x", close=closed.append)))

    assert closed == [False]


def test_bytes_after_the_range_are_left_alone() -> None:
    assert b"".join(reader_of(b"0123456789", length=4)) == b"0123"


def test_closed_reader_cannot_be_read_on() -> None:
    reader = reader_of(pattern(2 * CHUNK_BYTES))
    chunks = iter(reader)
    next(chunks)

    reader.close()

    with pytest.raises(ValueError, match="closed"):
        next(chunks)
