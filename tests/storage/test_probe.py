"""What health asks a store: that an object is not there is an answer, and that nobody answers is none."""

from __future__ import annotations

import pytest

from app.storage.base import StorageUnavailableError
from app.storage.probe import ask
from tests.fakes.object_store import MemoryObjectStore


def test_a_store_that_has_no_such_object_has_answered() -> None:
    store = MemoryObjectStore()

    ask(store)

    assert store.keys() == []


def test_a_store_that_is_down_has_not() -> None:
    store = MemoryObjectStore()

    def fail(_key: str) -> None:
        raise StorageUnavailableError("down")

    store.before["head"] = fail

    with pytest.raises(StorageUnavailableError):
        ask(store)
