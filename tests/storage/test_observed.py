"""The observed store: every call counted and timed once, and the port kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import cast

import pytest

from app.storage.base import ObjectInfo, ObjectNotFoundError, StorageTimeoutError, StorageUnavailableError
from app.storage.observed import ObservedObjectStore
from app.storage.probe import BytesBody, verify
from tests.fakes.call_observer import RememberingObserver
from tests.fakes.object_store import MemoryObjectStore, raising


class World:
    """An observed store in memory."""

    def __init__(self) -> None:
        self.memory = MemoryObjectStore()
        self.observer = RememberingObserver()
        self.store = ObservedObjectStore(self.memory, self.observer)


@pytest.fixture
def world() -> World:
    return World()


def put(world: World, key: str = "a") -> None:
    world.store.put(key, BytesBody(b"x"), content_type="image/png")


def test_every_call_that_works_is_one_success(world: World) -> None:
    put(world)
    world.store.head("a")
    with world.store.open("a", start=0, length=1) as reader:
        assert b"".join(reader) == b"x"
    assert [info.key for info in world.store.list()] == ["a"]
    world.store.delete("a")

    assert world.observer.calls == [
        ("storage", operation, "success", "") for operation in ("put", "head", "get", "list", "delete")
    ]
    assert all(0 <= seconds < 10 for seconds in world.observer.seconds)


@pytest.mark.parametrize("error", [StorageUnavailableError("down"), StorageTimeoutError("slow"), RuntimeError("x")])
def test_every_call_that_fails_is_one_failure_of_its_kind_and_raises_the_same(world: World, error: Exception) -> None:
    put(world)
    world.observer.calls.clear()
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: put(world),
        "head": lambda: world.store.head("a"),
        "open": lambda: world.store.open("a"),
        "delete": lambda: world.store.delete("a"),
        "list": lambda: list(world.store.list()),
    }

    for method, call in calls.items():
        world.memory.before[method] = raising(error)
        with pytest.raises(type(error)) as raised:
            call()
        assert raised.value is error

    kind = type(error).__name__
    assert world.observer.calls == [
        ("storage", operation, "failure", kind) for operation in ("put", "head", "get", "delete", "list")
    ]


def test_an_object_that_is_not_there_is_an_answer_and_no_failure(world: World) -> None:
    for call in (lambda: world.store.head("a"), lambda: world.store.open("a")):
        with pytest.raises(ObjectNotFoundError):
            call()

    assert [outcome for _, _, outcome, _ in world.observer.calls] == ["success", "success"]


def test_a_list_that_is_left_early_is_no_failure(world: World) -> None:
    for key in ("a", "b", "c"):
        put(world, key)
    world.observer.calls.clear()
    pages = cast("Generator[ObjectInfo, None, None]", world.store.list())
    next(pages)

    pages.close()

    assert world.observer.calls == [("storage", "list", "success", "")]


def test_it_is_a_store_like_the_one_inside_and_closes_it(world: World) -> None:
    verify(world.store)

    world.store.close()

    assert world.memory.is_closed
    assert world.memory.keys() == []
