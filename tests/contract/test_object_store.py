"""The suite that every object store passes: the promises of ``app/storage/base.py``, on the real thing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from app.stability import Deadline, deadline_scope
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    StorageTimeoutError,
)
from app.storage.guarded import GuardedObjectStore
from app.storage.local import LocalObjectStore
from app.storage.probe import PROBE_PREFIX, BytesBody, verify
from app.storage.s3 import S3Config, S3ObjectStore
from app.storage.swift import SwiftConfig, SwiftObjectStore
from tests.fakes.bodies import BodyWithReaders, BreakingReader, LyingBody, pattern
from tests.fakes.object_store import MemoryObjectStore
from tests.fakes.storage_pipelines import quick_storage_pipelines

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


class OpenStore(Protocol):
    """Opens one more store on the same objects; the Python source that opens it elsewhere comes with it."""

    source: str
    atomic_create: bool
    tries_again: bool

    def __call__(self, *, page_size: int = 3) -> ObjectStore: ...


class _Opener:
    def __init__(
        self, build: Callable[[int], ObjectStore], source: str, *, atomic_create: bool, tries_again: bool = False
    ) -> None:
        self._build = build
        self.source = source
        self.atomic_create = atomic_create
        self.tries_again = tries_again
        self.opened: list[ObjectStore] = []

    def __call__(self, *, page_size: int = 3) -> ObjectStore:
        store = self._build(page_size)
        self.opened.append(store)
        return store


@pytest.fixture(params=["local", "s3", "swift", "memory", "guarded"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    if request.param == "local":
        root = tmp_path / "store"
        opener = _Opener(
            lambda page_size: LocalObjectStore(root, page_size=page_size),
            f"from pathlib import Path\nstore = LocalObjectStore(Path({str(root)!r}))",
            atomic_create=True,
        )
    elif request.param == "guarded":
        behind = MemoryObjectStore()
        opener = _Opener(
            lambda _page_size: GuardedObjectStore(behind, quick_storage_pipelines()),
            "from tests.fakes.object_store import MemoryObjectStore\nstore = MemoryObjectStore()",
            atomic_create=True,
            tries_again=True,
        )
    elif request.param == "memory":
        memory = MemoryObjectStore()
        opener = _Opener(
            lambda _page_size: memory,
            "from tests.fakes.object_store import MemoryObjectStore\nstore = MemoryObjectStore()",
            atomic_create=True,
        )
    elif request.param == "swift":
        swift: SwiftConfig = request.getfixturevalue("swift_config")
        of_identity = {name: getattr(swift.identity, name) for name in swift.identity.__slots__}
        others = {name: getattr(swift, name) for name in swift.__slots__ if name != "identity"}
        opener = _Opener(
            lambda page_size: SwiftObjectStore(replace(swift, page_size=page_size)),
            f"store = SwiftObjectStore(SwiftConfig(identity=SwiftIdentity(**{of_identity!r}), **{others!r}))",
            atomic_create=False,
        )
    else:
        config: S3Config = request.getfixturevalue("s3_config")
        arguments = {name: getattr(config, name) for name in config.__slots__}
        opener = _Opener(
            lambda page_size: S3ObjectStore(replace(config, page_size=page_size)),
            f"store = S3ObjectStore(S3Config(**{arguments!r}))",
            atomic_create=False,
        )
    yield opener
    for store in opener.opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> ObjectStore:
    return open_store()


def put(store: ObjectStore, key: str, content: bytes) -> None:
    store.put(key, BytesBody(content), content_type="image/jpeg")


def read(store: ObjectStore, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    with store.open(key, start=start, length=length) as reader:
        return b"".join(reader)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size_bytes", [0, 1, 200_000, MIB, MIB + 1, 30 * MIB])
def test_what_was_put_reads_back_byte_for_byte(store: ObjectStore, size_bytes: int) -> None:
    content = pattern(size_bytes)

    put(store, "photos/1/original", content)

    with store.open("photos/1/original") as reader:
        chunks = list(reader)
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= 256 * 1024 for chunk in chunks)


def test_facts_of_an_object_are_those_of_its_body(store: ObjectStore) -> None:
    body = BytesBody(pattern(5000))

    made = store.put("photos/1", body, content_type="image/jpeg")

    found = store.head("photos/1")
    for info in (made, found):
        assert (info.key, info.size_bytes, info.sha256) == ("photos/1", 5000, body.sha256)
        assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=2)
        assert info.modified_at.utcoffset() == timedelta(0)


def test_second_attempt_sends_the_whole_body_again(open_store: OpenStore, store: ObjectStore) -> None:
    content = pattern(3 * MIB)
    body = BodyWithReaders(content, lambda count, plain: BreakingReader(content[:MIB]) if count == 1 else plain)

    if not open_store.tries_again:
        with pytest.raises(StorageError):
            store.put("a", body, content_type="image/jpeg")
        assert keys(store) == []
    store.put("a", body, content_type="image/jpeg")

    assert body.opened == 2
    assert read(store, "a") == content


def test_put_never_replaces_an_object(store: ObjectStore) -> None:
    put(store, "a", b"first")

    with pytest.raises(ObjectExistsError):
        put(store, "a", b"other")

    assert read(store, "a") == b"first"


def test_put_of_the_same_bytes_again_is_success(store: ObjectStore) -> None:
    put(store, "a", b"same")

    info = store.put("a", BytesBody(b"same"), content_type="image/jpeg")

    assert info.sha256 == BytesBody(b"same").sha256
    assert keys(store) == ["a"]


def test_of_twenty_racing_puts_one_creates_the_object_and_the_rest_are_refused(open_store: OpenStore) -> None:
    store = open_store()
    start = threading.Barrier(20)

    def race(number: int) -> int | None:
        start.wait()
        try:
            put(store, "contested", pattern(50_000, seed=number))
        except ObjectExistsError:
            return None
        return number

    with ThreadPoolExecutor(20) as pool:
        winners = [number for number in pool.map(race, range(20)) if number is not None]

    # Swift looks before it writes: puts that overlap may all be told success, and the last one's bytes stay.
    assert len(winners) == 1 or not open_store.atomic_create
    assert read(store, "contested") in [pattern(50_000, seed=number) for number in winners]
    with pytest.raises(ObjectExistsError):
        put(store, "contested", b"late")


def test_twenty_racing_puts_of_the_same_bytes_all_succeed(store: ObjectStore) -> None:
    start = threading.Barrier(20)

    def race(_number: int) -> None:
        start.wait()
        put(store, "same", pattern(50_000))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(race, range(20)))

    assert read(store, "same") == pattern(50_000)


_KILLED_IN_THE_MIDDLE = """
import io, sys
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from app.storage.s3 import S3Config, S3ObjectStore
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_identity import SwiftIdentity
{open_store}

class Reader(io.BytesIO):
    def read(self, size=-1, /):
        if self.tell() > 1_000_000:
            print("in the middle", flush=True)
            sys.stdin.read()
        return super().read(size)

class Body(BytesBody):
    def open(self):
        return Reader(self._content)

store.put("a", Body(bytes(5_000_000)), content_type="image/jpeg")
"""


def test_put_killed_in_the_middle_leaves_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    program = _KILLED_IN_THE_MIDDLE.format(open_store=open_store.source)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"in the middle\n"

        writer.kill()
        writer.wait()

    store = open_store()
    assert keys(store) == []
    with pytest.raises(ObjectNotFoundError):
        store.head("a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    put(store, "a", b"again")
    assert read(store, "a") == b"again"


@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 400_000), (1, None), (399_999, 1), (399_999, None), (100, 300_000)]
)
def test_range_reads_exactly_its_bytes_and_tells_of_the_whole(
    store: ObjectStore, start: int, length: int | None
) -> None:
    content = pattern(400_000)
    put(store, "a", content)

    with store.open("a", start=start, length=length) as reader:
        found = b"".join(reader)

    assert found == content[start : None if length is None else start + length]
    assert reader.info.size_bytes == 400_000
    assert reader.info.sha256 == BytesBody(content).sha256


@pytest.mark.parametrize(("start", "length"), [(5, 1), (6, None), (0, 6), (4, 2)])
def test_range_beyond_the_object_is_an_error_and_never_fewer_bytes(
    store: ObjectStore, start: int, length: int | None
) -> None:
    put(store, "a", b"12345")

    with pytest.raises(ObjectCorruptError):
        store.open("a", start=start, length=length)


@pytest.mark.parametrize(("start", "length"), [(-1, None), (0, 0), (0, -1)])
def test_range_that_no_object_has_is_a_value_error(store: ObjectStore, start: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="a range starts at 0"):
        store.open("a", start=start, length=length)


def test_key_and_key_below_it_both_exist(store: ObjectStore) -> None:
    put(store, "a", b"above")
    put(store, "a/b", b"below")
    put(store, "c/d/e", b"deep")
    put(store, "c/d", b"shallow")

    assert [read(store, key) for key in keys(store)] == [b"above", b"below", b"shallow", b"deep"]


def test_longest_keys_do_not_get_in_each_others_way(store: ObjectStore) -> None:
    names = ["k" * 200, "k" * 201, "k" * 400, "k" * 512, "/".join(["k"] * 256)]

    for name in names:
        put(store, name, name.encode())

    assert keys(store) == sorted(names)
    assert [read(store, name) for name in names] == [name.encode() for name in names]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/.",
        "a/../b",
        "../a",
        "A",
        "a b",
        "a\n",
        "a\0",
        "ä",
        "a,b",
        "a~",
        "k" * 513,
        "a%2fb",
        "a\\b",
        "a?b",
        "a#b",
        "a&marker=b",
        "a\r\nx-injected: 1",
        "写真/1",
        "e\u0301",
        "\u202egpj.a",
        "\uff41",
        "\ud800",
        "\U0001f4f7",
    ],
)
def test_bad_key_is_refused_by_every_method(store: ObjectStore, key: str) -> None:
    for call in (
        lambda: put(store, key, b"x"),
        lambda: store.head(key),
        lambda: store.open(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="object key"):
            call()


def test_list_yields_every_key_once_in_key_order_over_several_pages(store: ObjectStore) -> None:
    names = sorted(f"{owner}/{number}" for owner in ("a", "a-b", "b", "b.c") for number in range(4))
    for name in reversed(names):
        put(store, name, name.encode())

    infos = list(store.list())

    assert [info.key for info in infos] == names
    assert [info.size_bytes for info in infos] == [len(name) for name in names]
    assert keys(store, "a/") == ["a/0", "a/1", "a/2", "a/3"]
    assert keys(store, "b") == [name for name in names if name.startswith("b")]
    assert keys(store, "z") == []


def test_delete_is_success_whether_the_object_is_there_or_not(store: ObjectStore) -> None:
    put(store, "a", b"x")
    put(store, "a/b", b"y")

    store.delete("a")
    store.delete("a")
    store.delete("never")

    assert keys(store) == ["a/b"]
    with pytest.raises(ObjectNotFoundError):
        store.open("a")
    put(store, "a", b"new")
    assert read(store, "a") == b"new"


def test_missing_object_is_said_to_be_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFoundError):
        store.head("a")
    with pytest.raises(ObjectNotFoundError):
        store.open("a")
    with pytest.raises(ObjectNotFoundError):
        store.open("a", start=1)


def test_bytes_other_than_the_digest_says_are_refused_and_not_kept(store: ObjectStore) -> None:
    stated = pattern(2 * MIB)
    altered = stated[:-1] + bytes([stated[-1] ^ 1])

    for size_bytes in (1000, 2 * MIB):
        with pytest.raises(ObjectCorruptError):
            store.put("a", LyingBody(stated[-size_bytes:], altered[-size_bytes:]), content_type="image/jpeg")

    assert keys(store) == []


def test_reader_closed_in_the_middle_gives_its_descriptors_back(store: ObjectStore) -> None:
    put(store, "a", pattern(3 * MIB))
    read(store, "a")
    before = count_descriptors()

    for _ in range(50):
        reader = store.open("a")
        next(iter(reader))
        reader.close()
        reader.close()

    assert count_descriptors() < before + 25  # half of what a leak would leave: other threads open some, too
    assert read(store, "a") == pattern(3 * MIB)


def test_object_deleted_while_it_is_read_reads_to_its_end_or_fails(store: ObjectStore) -> None:
    content = pattern(3 * MIB)
    put(store, "a", content)

    with store.open("a") as reader:
        chunks = iter(reader)
        found = next(chunks)
        store.delete("a")
        found += b"".join(chunks)

    assert found == content
    assert keys(store) == []


def test_nothing_is_begun_when_the_deadline_has_passed(store: ObjectStore) -> None:
    put(store, "a", b"x")

    with deadline_scope(Deadline(-1)):
        for call in (lambda: put(store, "b", b"y"), lambda: store.open("a")):
            with pytest.raises(StorageTimeoutError):
                call()

    assert keys(store) == ["a"]


def test_probe_leaves_nothing_behind(store: ObjectStore) -> None:
    verify(store)

    assert keys(store, PROBE_PREFIX) == []
