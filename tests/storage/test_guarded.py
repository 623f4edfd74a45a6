"""A store behind its pipelines: what is tried again, what is refused, and what the breaker hears of."""

from __future__ import annotations

import random

import pytest

from app.stability import (
    CircuitBreaker,
    CircuitBreakerOptions,
    Deadline,
    Pipeline,
    Policy,
    Retry,
    RetryOptions,
    State,
    deadline_scope,
)
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.guarded import STORAGE_CLASSIFICATION, GuardedObjectStore, StoragePipelines
from app.storage.probe import BytesBody
from app.storage.reading import CHUNK_BYTES
from tests.fakes.bodies import pattern
from tests.fakes.clocks import HandClock
from tests.fakes.object_store import MemoryObjectStore

KEY = "photos/1/original"
MINIMUM = 4


class World:
    """A guarded store on a clock of its own, with the store behind it."""

    def __init__(self, *, attempts: int = 3) -> None:
        self.clock = HandClock()
        self.behind = MemoryObjectStore()
        self.breaker = self._breaker()
        self.attempts = attempts
        read = self._pipeline("read", self.breaker)
        others = [self._pipeline(name, self._breaker()) for name in ("write", "delete", "list")]
        self.store = GuardedObjectStore(self.behind, StoragePipelines(read, *others))

    def _breaker(self) -> CircuitBreaker:
        options = CircuitBreakerOptions(
            minimum_number_of_calls=MINIMUM, sliding_window_size=MINIMUM, wait_duration_in_open_state_seconds=7
        )
        return CircuitBreaker("storage", options, classification=STORAGE_CLASSIFICATION, clock=self.clock)

    def _pipeline(self, name: str, breaker: CircuitBreaker) -> Pipeline:
        retry = Retry(
            name,
            RetryOptions(max_attempts=self.attempts),
            classification=STORAGE_CLASSIFICATION,
            clock=self.clock,
            random=random.Random(7),
        )
        policies: list[Policy] = [retry, breaker]
        return Pipeline(name, policies)

    def put(self, content: bytes, key: str = KEY) -> None:
        self.store.put(key, BytesBody(content), content_type="image/jpeg")

    def read(self, key: str = KEY) -> bytes:
        with self.store.open(key) as reader:
            return b"".join(reader)

    def calls(self, method: str) -> int:
        return sum(name == method for name, _ in self.behind.calls)

    def fail(self, method: str, error: Exception, times: int | None = None) -> None:
        """Make a method of the store fail, so often or always."""
        left = [times]

        def hook(_key: str) -> None:
            if left[0] == 0:
                return
            if left[0] is not None:
                left[0] -= 1
            raise error

        self.behind.before[method] = hook


@pytest.fixture
def world() -> World:
    return World()


def test_a_put_that_fails_once_is_sent_again_whole(world: World) -> None:
    content = pattern(300_000)
    world.fail("put", StorageUnavailableError("reset"), times=1)

    world.put(content)

    assert world.calls("put") == 2
    assert world.read() == content


def test_a_put_whose_reply_was_lost_is_success_the_second_time(world: World) -> None:
    lost = [StorageTimeoutError("no reply")]

    def lose_once(_key: str) -> None:
        if lost:
            raise lost.pop()

    world.behind.after["put"] = lose_once

    world.put(b"content")

    assert world.calls("put") == 2
    assert world.behind.keys() == [KEY]


def test_an_open_whose_first_chunk_fails_is_opened_again(world: World) -> None:
    content = pattern(CHUNK_BYTES // 2)
    world.put(content)
    world.fail("open", StorageUnavailableError("reset"), times=2)

    assert world.read() == content
    assert world.calls("open") == 3


@pytest.mark.parametrize(
    "error", [StorageDeniedError("403"), StorageFullError("507"), ObjectCorruptError("x"), ObjectNotFoundError("404")]
)
def test_what_no_second_try_mends_is_tried_once_and_opens_nothing(world: World, error: StorageError) -> None:
    world.fail("head", error)

    for _ in range(2 * MINIMUM):
        with pytest.raises(type(error)):
            world.store.head(KEY)

    assert world.calls("head") == 2 * MINIMUM
    assert world.breaker.state is State.CLOSED


def test_other_content_under_the_key_is_an_answer_and_no_failure(world: World) -> None:
    world.put(b"one")

    with pytest.raises(ObjectExistsError):
        world.put(b"two")

    assert world.calls("put") == 2


def test_an_open_breaker_refuses_as_the_store_would_and_calls_nothing() -> None:
    world = World(attempts=1)
    world.fail("head", StorageUnavailableError("503"))
    for _ in range(MINIMUM):
        with pytest.raises(StorageUnavailableError, match="503"):
            world.store.head(KEY)
    called = world.calls("head")

    with pytest.raises(StorageUnavailableError) as refused:
        world.store.head(KEY)

    assert world.calls("head") == called
    assert refused.value.retry_after_seconds == 7
    assert refused.value.__suppress_context__


def test_no_time_left_is_the_stores_timeout(world: World) -> None:
    deadline = Deadline(1.0, world.clock)
    world.clock.advance(2.0)
    world.behind.before["head"] = lambda _key: deadline.check()

    with deadline_scope(deadline), pytest.raises(StorageTimeoutError):
        world.store.head(KEY)


def test_only_what_the_store_itself_asked_for_makes_a_retry_wait() -> None:
    asked = StorageThrottledError("slow down", retry_after_seconds=7)
    guessed = StorageUnavailableError("reset", retry_after_seconds=2)

    assert STORAGE_CLASSIFICATION.retry_after(asked) == 7
    assert STORAGE_CLASSIFICATION.retry_after(guessed) is None


def test_an_answer_that_breaks_off_later_reaches_the_client_and_the_breaker(world: World) -> None:
    world.put(pattern(3 * CHUNK_BYTES))
    reader = world.store.open(KEY)
    chunks = iter(reader)
    next(chunks)
    world.behind.break_reading = StorageUnavailableError("broke off")
    failed = world.breaker.snapshot().calls["failed"]

    with pytest.raises(StorageUnavailableError, match="broke off"):
        list(chunks)

    assert world.breaker.snapshot().calls["failed"] == failed + 1
    reader.close()


def test_a_reader_is_closed_when_its_first_chunk_fails(world: World) -> None:
    world.put(pattern(1000))
    world.behind.break_reading = StorageDeniedError("no")

    with pytest.raises(StorageDeniedError):
        world.store.open(KEY)

    assert world.behind.open_readers == 0


def test_an_empty_object_has_no_chunk_and_can_be_opened(world: World) -> None:
    world.put(b"")

    assert world.read() == b""


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 2500])
def test_a_listing_is_whole_over_any_number_of_pages(world: World, count: int) -> None:
    for number in range(count):
        world.behind.put(f"k/{number:05}", BytesBody(b"x"), content_type="image/jpeg")

    found = [info.key for info in world.store.list("k/")]

    assert found == [f"k/{number:05}" for number in range(count)]


def test_a_listing_that_breaks_is_not_tried_again(world: World) -> None:
    world.fail("list", StorageUnavailableError("reset"))

    with pytest.raises(StorageUnavailableError):
        list(world.store.list())

    assert world.calls("list") == 1


def test_a_delete_is_tried_again_and_closing_closes_the_store(world: World) -> None:
    world.put(b"x")
    world.fail("delete", StorageUnavailableError("reset"), times=1)

    world.store.delete(KEY)
    world.store.close()

    assert world.behind.keys() == []
    assert world.behind.is_closed
