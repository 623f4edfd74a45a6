"""What the local store promises besides the port: its layout, its durability, its own failures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from app.storage.base import ObjectCorruptError, ObjectNotFoundError, StorageDeniedError, StorageUnavailableError
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.fakes.bodies import BodyWithReaders, pattern

REPOSITORY = Path(__file__).resolve().parents[2]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_object_is_one_file_of_its_bytes_alone_named_after_its_digest(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    body = BytesBody(pattern(1000))

    store.put("photos/1/original", body, content_type="image/jpeg")

    [path] = files(tmp_path)
    first, second, name, digest = path.relative_to(tmp_path / "objects").parts
    assert (len(first), len(second), name, digest) == (2, 2, "photos,1,original", body.sha256)
    assert path.read_bytes() == pattern(1000)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700


def test_the_group_may_read_objects_and_nothing_else_when_that_is_wanted(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = LocalObjectStore(tmp_path / "store", group_readable=True)
        store.put("photos/1/original", BytesBody(b"x"), content_type="image/jpeg")
    finally:
        os.umask(before)

    path = store.path_of("photos/1/original")
    assert path is not None
    modes = [place.stat().st_mode & 0o777 for place in (path, *list(path.parents)[:5])]
    assert modes == [0o640, *[0o750] * 5]
    assert (tmp_path / "store" / "incoming").stat().st_mode & 0o777 == 0o700


def test_bytes_and_every_folder_on_the_way_are_made_durable_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjectStore(tmp_path)
    order: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        order.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        renamed = real_rename(path, target)
        order.append(f"rename {target.relative_to(tmp_path)}")
        return renamed

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("pathlib.Path.rename", rename)
    body = BytesBody(b"x")
    store.put("a", body, content_type="image/jpeg")

    place = next((tmp_path / "objects").glob("*/*/a")).relative_to(tmp_path)
    incoming = order[0].removeprefix("fsync ").rpartition("/")[0]
    assert order == [
        f"fsync {incoming}/{body.sha256}",
        f"fsync {incoming}",
        "fsync objects",
        f"fsync {place.parent.parent}",
        f"rename {place}",
        f"fsync {place.parent}",
    ]
    assert incoming.startswith("incoming/")


def test_altered_file_is_found_out_before_its_last_chunk(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a", BytesBody(pattern(1000)), content_type="image/jpeg")
    [path] = files(tmp_path)
    path.write_bytes(b"!" + pattern(1000)[1:])

    with store.open("a") as reader, pytest.raises(ObjectCorruptError):
        next(iter(reader))


def test_folder_without_its_file_is_no_object_and_can_be_put_again(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    for key in ("a", "b"):
        store.put(key, BytesBody(b"x"), content_type="image/jpeg")
    files(tmp_path)[0].unlink()
    (lost,) = {"a", "b"} - {info.key for info in store.list()}

    with pytest.raises(ObjectNotFoundError):
        store.open(lost)
    with pytest.raises(ObjectNotFoundError):
        store.head(lost)

    store.put(lost, BytesBody(b"y"), content_type="image/jpeg")
    assert [info.key for info in store.list()] == ["a", "b"]


def test_second_digest_is_damage_that_no_listing_stumbles_over(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    for key in ("a", "b"):
        store.put(key, BytesBody(b"x"), content_type="image/jpeg")
    place = next((tmp_path / "objects").glob("*/*/a"))
    (place / BytesBody(b"y").sha256).write_bytes(b"y")

    assert [info.key for info in store.list()] == ["b"]
    with pytest.raises(ObjectCorruptError):
        store.head("a")
    with pytest.raises(ObjectCorruptError):
        store.open("a")


def test_file_that_goes_between_two_looks_is_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a", BytesBody(b"x"), content_type="image/jpeg")
    real_content = LocalObjectStore._content

    def content(store: LocalObjectStore, key: str) -> Path:
        path = real_content(store, key)
        path.unlink(missing_ok=True)
        path.with_name("0" * 64).touch()
        return path

    monkeypatch.setattr(LocalObjectStore, "_content", content)

    with pytest.raises(ObjectNotFoundError):
        store.head("a")


def test_range_over_all_bytes_is_checked_like_the_whole(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a", BytesBody(pattern(1000)), content_type="image/jpeg")
    [path] = files(tmp_path)
    path.write_bytes(b"!" + pattern(1000)[1:])

    with store.open("a", start=0, length=1000) as reader, pytest.raises(ObjectCorruptError):
        next(iter(reader))


def test_missing_root_is_never_taken_for_missing_objects(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "unmounted")

    with pytest.raises(StorageDeniedError):
        store.head("a")
    with pytest.raises(StorageDeniedError):
        list(store.list())
    with pytest.raises((StorageDeniedError, StorageUnavailableError)):
        store.put("a", BytesBody(b"x"), content_type="image/jpeg")


def test_new_store_leaves_alone_what_another_is_writing(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    reached, released = threading.Event(), threading.Event()

    def wrap(_count: int, plain: BinaryIO) -> BinaryIO:
        reached.set()
        assert released.wait(20)
        return plain

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.put, "a", BodyWithReaders(b"x", wrap), content_type="image/jpeg")
        assert reached.wait(20)
        LocalObjectStore(tmp_path)
        released.set()
        writing.result(20)

    assert [info.key for info in store.list()] == ["a"]
    assert list((tmp_path / "incoming").iterdir()) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_store(tmp_path: Path) -> None:
    LocalObjectStore(tmp_path)
    left = tmp_path / "incoming" / "0123456789abcdef"
    left.mkdir()
    (left / "half").write_bytes(b"x" * 1000)

    LocalObjectStore(tmp_path)

    assert list((tmp_path / "incoming").iterdir()) == []


def test_foreign_names_are_neither_listed_nor_touched_nor_in_the_way(tmp_path: Path) -> None:
    body = BytesBody(b"x")
    LocalObjectStore(tmp_path).put("a", body, content_type="image/jpeg")
    place = next((tmp_path / "objects").glob("*/*/a"))
    (tmp_path / "objects" / "00" / "11" / "Not A Key").mkdir(parents=True)
    foreign = [
        folder / ".DS_Store"
        for folder in (
            tmp_path,
            tmp_path / "incoming",
            tmp_path / "objects",
            place.parent.parent,
            place.parent,
            place,
        )
    ]
    for file in [*foreign, place.parent / "key"]:
        file.touch()

    store = LocalObjectStore(tmp_path)
    store.put("a", body, content_type="image/jpeg")
    store.put("b", body, content_type="image/jpeg")
    listed = [info.key for info in store.list()]
    store.delete("b")

    assert listed == ["a", "b"]
    with store.open("a") as reader:
        assert b"".join(reader) == b"x"
    assert all(file.exists() for file in foreign)


def test_file_in_an_objects_place_is_no_object(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a", BytesBody(b"x"), content_type="image/jpeg")
    place = next((tmp_path / "objects").glob("*/*/a"))
    place.rename(tmp_path / "elsewhere")
    place.touch()

    assert list(store.list()) == []
    with pytest.raises(ObjectNotFoundError):
        store.head("a")


def test_store_that_cannot_be_opened_says_so_at_each_use_and_works_when_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    store = LocalObjectStore(tmp_path / "file" / "store")

    for _ in range(2):
        with pytest.raises(StorageDeniedError):
            store.head("a")
        with pytest.raises(StorageDeniedError):
            store.put("a", BytesBody(b"x"), content_type="image/jpeg")
        with pytest.raises(StorageDeniedError):
            list(store.list())
    (tmp_path / "file").unlink()
    LocalObjectStore(tmp_path / "file" / "store")
    store.put("a", BytesBody(b"x"), content_type="image/jpeg")
    assert store.head("a").size_bytes == 1


_LIMITED = """
import os, resource, sys
from pathlib import Path
from app.storage.base import StorageError
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody

root = Path(sys.argv[1])
{before}
try:
    LocalObjectStore(root).put("a", BytesBody(bytes(1_000_000)), content_type="image/jpeg")
except StorageError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("before", "error"),
    [
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))", "StorageFullError"),
        ("os.getuid() == 0 and (os.setgid(65534), os.setuid(65534))", "StorageDeniedError"),
    ],
)
def test_full_disk_and_missing_rights_have_their_errors_and_leave_nothing(
    tmp_path: Path, before: str, error: str
) -> None:
    root = tmp_path / "store"
    root.mkdir(mode=0o500)

    done = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(before=before), str(root)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )

    if os.getuid() == 0 or "setuid" in before:
        assert done.stdout.strip() == error
    assert files(root) == []
