"""Which answers name bytes to nginx instead of having them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from werkzeug.test import create_environ

from app.errors import UnavailableError
from app.photos.acceleration import LINK_SECONDS, LINK_WINDOW_SECONDS, Acceleration
from app.storage.local import LocalObjectStore
from tests.fakes.object_store import MemoryObjectStore

KEY = "photos/0197/original"
SHA256 = "ab" * 32
SAID = {"ETag": '"x"', "Cache-Control": "private", "Content-Disposition": "inline"}
KEPT = {"ETag": '"x"', "X-Photo-Cache-Control": "private", "X-Photo-Content-Disposition": "inline"}
ASKED = {"X-Sendfile-Type": "X-Accel-Redirect"}
NOW = dt.datetime(2026, 3, 1, 12, 0, 44, 500_000, tzinfo=dt.UTC)


class PresigningStore(MemoryObjectStore):
    """A store that makes links, or cannot at the moment."""

    def __init__(self) -> None:
        super().__init__()
        self.can_sign = True

    def presigned_get(self, key: str, *, expires_at: dt.datetime, issued_at: dt.datetime, content_type: str) -> str:
        if not self.can_sign:
            raise UnavailableError("The account's address is not known yet.")
        lives = int((expires_at - issued_at).total_seconds())
        return f"https://storage.example/photos/{key}?from={issued_at:%H%M%S}&lives={lives}&type={content_type}"


class Wrapper:
    """What stands before a store."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


def named(
    store: object, headers: dict[str, str] | None = None, *, method: str = "GET", is_partial: bool = False
) -> dict[str, str] | None:
    """Return what a request with these headers gets."""
    acceleration = Acceleration(store, lambda: NOW)  # type: ignore[arg-type]  # asked for what it can do only
    environ = create_environ(method=method, headers={**ASKED, **(headers or {})})
    return acceleration.headers_for(
        environ, KEY, SAID, sha256=SHA256, content_type="image/jpeg", size_bytes=7, is_partial=is_partial
    )


def store_with(folder: Path, size_bytes: int) -> LocalObjectStore:
    """Return a store whose object has so many bytes, whatever its name says."""
    store = LocalObjectStore(folder)
    file = folder / "objects" / store.folder_of(KEY) / SHA256
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(size_bytes))
    return store


@pytest.mark.parametrize("size_bytes", [0, 6, 8])
def test_a_file_of_another_size_is_not_named(tmp_path: Path, size_bytes: int) -> None:
    assert named(store_with(tmp_path, size_bytes)) is None


def test_a_file_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    assert named(LocalObjectStore(tmp_path)) is None


def test_a_file_is_named_by_its_place_below_the_folder_of_objects(tmp_path: Path) -> None:
    store = store_with(tmp_path, 7)

    found = named(Wrapper(Wrapper(store)))

    assert found == {"X-Accel-Redirect": f"/.bytes/local/{store.folder_of(KEY)}/{SHA256}", **KEPT}


def test_an_object_is_named_by_its_key_with_a_link_and_its_size() -> None:
    found = named(Wrapper(PresigningStore()))

    assert found == {
        "X-Accel-Redirect": f"/.bytes/storage/{KEY}",
        "X-Photo-Upstream": f"from=120030&lives={LINK_SECONDS}&type=image/jpeg",
        "X-Photo-Bytes": "7",
        **KEPT,
    }


def test_a_link_lives_long_enough_at_the_end_of_its_window() -> None:
    assert LINK_SECONDS - LINK_WINDOW_SECONDS >= 60


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"X-Sendfile-Type": ""}),
        ("GET", {"X-Sendfile-Type": "X-Sendfile"}),
        ("HEAD", {}),
        ("GET", {"If-Match": '"x"'}),
        ("GET", {"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}),
        ("GET", {"Range": "bytes=0-1,3-4"}),
        ("GET", {"Range": "bytes=9-5"}),
    ],
    ids=["nobody asks", "another header", "HEAD", "If-Match", "If-Unmodified-Since", "several ranges", "backwards"],
)
def test_what_nginx_would_answer_otherwise_is_answered_here(method: str, headers: dict[str, str]) -> None:
    assert named(PresigningStore(), headers, method=method) is None


@pytest.mark.parametrize("asked", ["bytes = 0-9", "BYTES=0-9", "bytes=0-9 ", "bytes=0-9999999999999999999"])
def test_a_range_that_is_read_in_more_than_one_way_is_cut_out_here(asked: str) -> None:
    assert named(PresigningStore(), {"Range": asked}, is_partial=True) is None


@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=5-", "bytes=-5"])
def test_with_a_part_the_answer_says_that_parts_can_be_had(asked: str) -> None:
    found = named(PresigningStore(), {"Range": asked}, is_partial=True)

    assert found is not None
    assert found["X-Photo-Accept-Ranges"] == "bytes"


def test_a_store_that_can_do_neither_is_read_here() -> None:
    assert named(MemoryObjectStore()) is None


def test_a_store_that_can_make_no_link_now_is_read_here() -> None:
    store = PresigningStore()
    store.can_sign = False

    assert named(store) is None
