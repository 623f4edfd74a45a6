"""What some stores can do besides the port, and how it is found behind observers and pipelines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from app.ops.metrics import Metrics
from app.storage.base import ObjectStore
from app.storage.guarded import GuardedObjectStore
from app.storage.links import FileStore, PresignedStore, find_capability
from app.storage.local import LocalObjectStore
from app.storage.observed import ObservedObjectStore
from app.storage.probe import BytesBody
from tests.fakes.object_store import MemoryObjectStore
from tests.fakes.storage_pipelines import quick_storage_pipelines


def wrapped(store: ObjectStore) -> ObjectStore:
    observed = ObservedObjectStore(store, Metrics(version="test", role="worker"))
    return GuardedObjectStore(observed, quick_storage_pipelines())


def test_a_capability_is_found_behind_observer_and_pipelines(tmp_path: Path) -> None:
    local = LocalObjectStore(tmp_path)

    assert find_capability(wrapped(local), FileStore) is local
    assert find_capability(local, FileStore) is local


def test_a_capability_that_no_store_has_is_none(tmp_path: Path) -> None:
    assert find_capability(wrapped(LocalObjectStore(tmp_path)), PresignedStore) is None
    assert find_capability(wrapped(MemoryObjectStore()), FileStore) is None


@pytest.mark.parametrize(
    "key",
    ["a", "originals/0123456789abcdef/fedcba", "a/" + "b" * 500, "x.y-z_/q"],
    ids=["one", "photo", "long", "odd"],
)
def test_a_local_object_lies_in_the_folder_that_its_key_tells(tmp_path: Path, key: str) -> None:
    store = LocalObjectStore(tmp_path)
    store.put(key, BytesBody(b"bytes"), content_type="image/png")
    digest = hashlib.sha256(b"bytes").hexdigest()

    path = store.path_of(key)

    assert path == tmp_path / "objects" / store.folder_of(key) / digest
    assert path.read_bytes() == b"bytes"
    assert store.key_in(store.folder_of(key)) == key


def test_a_local_object_is_held_while_its_file_has_its_size(tmp_path: Path) -> None:
    store, digest = LocalObjectStore(tmp_path), hashlib.sha256(b"bytes").hexdigest()
    before = store.holds("a/b", sha256=digest, size_bytes=5)
    store.put("a/b", BytesBody(b"bytes"), content_type="image/png")

    asked = [store.holds("a/b", sha256=digest, size_bytes=size) for size in (4, 5, 6)]

    assert (before, asked) == (False, [False, True, False])
    assert not store.holds("a/b", sha256="0" * 64, size_bytes=5)


def test_a_local_object_that_is_not_there_has_no_path(tmp_path: Path) -> None:
    assert LocalObjectStore(tmp_path).path_of("a/b") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: "00" + folder[2:],
        lambda folder: folder + "/",
        lambda folder: "/" + folder,
        lambda folder: folder.replace(",", "/"),
        lambda folder: folder.replace(",", "~/", 1),
        lambda folder: folder.upper(),
        lambda folder: folder + "/..",
        lambda folder: folder[:0],
    ],
    ids=["other_hash", "slash_behind", "slash_before", "parted", "continued", "upper", "dots", "empty"],
)
def test_a_folder_that_is_no_keys_has_no_key(tmp_path: Path, change: Callable[[str], str]) -> None:
    store = LocalObjectStore(tmp_path)
    folder = change(store.folder_of("originals/12/34"))

    assert store.key_in(folder) is None


def test_a_bad_key_has_neither_folder_nor_path(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)

    with pytest.raises(ValueError, match="object key"):
        store.folder_of("../x")
    with pytest.raises(ValueError, match="key"):
        store.holds("../x", sha256="0" * 64, size_bytes=0)
    with pytest.raises(ValueError, match="object key"):
        store.path_of("../x")
