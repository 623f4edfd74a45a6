"""kill -9 on SQLite and a folder, where no proxy can stand between: SQLite's own lock and the disk are the barriers.

A moment that is only looked for, not held, may have passed when the kill comes; what must hold holds at any moment.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.photos.models import PENDING
from tests.chaos.crashes import OpenUpload, assert_sound, end_leases, let_time_pass, rows
from tests.servers.client import new_photo
from tests.servers.product import Product, until
from tests.servers.stacks import Stack, embedded_stack

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("embedded")
    product = Product(embedded_stack(folder), folder, workers=2)
    with closing(product):
        yield product


@contextmanager
def locked(stack: Stack) -> Iterator[None]:
    """Hold the lock of whoever writes."""
    path = stack.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def incoming(stack: Stack) -> list[Path]:
    """Return what the store is writing."""
    assert stack.objects_folder is not None
    return [path for path in stack.objects_folder.glob("incoming/*/*") if _size_of(path)]


def _size_of(path: Path) -> int:
    """Return how long a file is; 0 when it has just been moved to its place."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def look_for(upload: OpenUpload, moment: Callable[[], object], what: str) -> None:
    """Wait until a moment has come, or has passed: then the upload is answered."""
    until(lambda: moment() or upload.has_answered(0.001), what)


MOMENTS = ["half a body", "before TX 1", "after TX 1", "mid PUT", "after TX 2"]


def reach(product: Product, upload: OpenUpload, moment: str) -> None:
    """Send, and come back when the upload is at the moment."""
    if moment == "half a body":
        upload.send_half().worker()
        return
    upload.send_all()
    if moment == "after TX 1":
        look_for(upload, lambda: rows(product.stack, PENDING), "the pending row")
    elif moment == "mid PUT":
        look_for(upload, lambda: incoming(product.stack), "a part of the object")
    elif moment == "after TX 2":
        look_for(upload, lambda: rows(product.stack, PENDING), "the pending row")
        look_for(upload, lambda: not rows(product.stack, PENDING), "the ready row")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_worker_loses_nothing_acknowledged_and_leaves_nothing_behind(product: Product, moment: str) -> None:
    size_bytes = 2 * MIB if moment in {"half a body", "before TX 1"} else 16 * MIB
    client, key, content = product.new_user(), secrets.token_hex(8), new_photo(size_bytes)
    kept_content = new_photo()
    kept = client.upload(kept_content)
    with OpenUpload(product, client, content, key=key) as upload:
        if moment == "before TX 1":
            with locked(product.stack):
                upload.send_all()
                until(product.spooled_files, "the spooled body")
                upload.kill_worker()
        else:
            reach(product, upload, moment)
            upload.kill_worker()

        answer = upload.answer()

    assert client.twin().get("/api/v1/users/me").status_code == 200
    end_leases(product.stack)
    again = client.send(content, key=key)
    assert again.status_code == 201
    assert answer is None or answer.document["id"] == again.json()["id"]
    assert_sound(product, client, {kept["id"]: kept_content, again.json()["id"]: content})
    until(product.is_ready, "the new worker")
    assert incoming(product.stack) == []
    until(lambda: product.spooled_files() == [], "the spool to be empty")  # health holds a file there for a moment


def test_a_killed_server_starts_again_and_cleans_up_by_itself(product: Product) -> None:
    client, key, content = product.new_user(), secrets.token_hex(8), new_photo(16 * MIB)
    kept_content = new_photo()
    kept = client.upload(kept_content)
    with OpenUpload(product, client, content, key=key) as upload:
        upload.send_all()
        look_for(upload, lambda: rows(product.stack, PENDING), "the pending row")
        product.kill()
    let_time_pass(product.stack)

    product.start()

    until(lambda: rows(product.stack, PENDING) == 0, "the product's own reaper")
    assert incoming(product.stack) == []
    again = client.send(content, key=key)
    assert again.status_code == 201
    assert_sound(product, client, {kept["id"]: kept_content, again.json()["id"]: content})
