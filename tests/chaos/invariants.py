"""The invariants that hold after every fault, counted: objects, rows, quota, answers, processes, descriptors."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import requests
from sqlalchemy import Connection, func, make_url, select, update

from app.accounts.models import User
from app.db.outbox import OBJECT_DELETE, OutboxRow
from app.photos.models import PENDING, READY, Photo
from tests.integration.judging import assert_problem
from tests.servers.client import Client
from tests.servers.product import Product, until

_LONG_AGO = dt.timedelta(days=1)
_THREADS_OF_A_WORKER = 16 + 16
"""Those of requests, which a worker makes as it needs them and keeps, and those that are always there."""
_POOLED = re.compile(r"\.db(-wal|-shm)?$")
_ALLOWED_ERRORS = frozenset({502, 503, 504, 507})


class Baseline:
    """What a warm product holds, and that it holds no more afterwards.

    Args:
        product: The product, used a little already.
    """

    def __init__(self, product: Product) -> None:
        self._product = product
        self._workers = product.worker_pids()
        self._descriptors = len(_others(product))
        self._threads = _threads(product)
        self._unforeseen = product.metric("photo_api_exceptions_total")

    def require(self, *, workers_lived: bool = True, slack: int = 6) -> None:
        """Wait until descriptors and threads are back (I9); no worker died (I7), nothing unforeseen (I6).

        Args:
            workers_lived: Whether the fault was no kill.
            slack: How many connections a pool may have opened to keep.
        """
        product = self._product
        until(lambda: product.metric("photo_api_in_flight_requests") == 0, "nothing in flight")
        until(lambda: len(_others(product)) <= self._descriptors + slack, "the descriptors to be back")
        most = max(self._threads, product.workers * _THREADS_OF_A_WORKER)
        until(lambda: _threads(product) <= most, "the threads to be back")
        until(lambda: product.metric("photo_api_db_pool_active_connections") == 0, "the connections to be back")
        until(lambda: not product.spooled_files(), "the spool to be empty")
        if workers_lived:
            assert product.worker_pids() == self._workers
            assert product.metric("photo_api_exceptions_total") == self._unforeseen


def _others(product: Product) -> list[str]:
    """Return descriptors, but for those of the database's connections, whose number the pool bounds."""
    pooled = _sockets_to(make_url(product.environ["PHOTO_API_DATABASE__URL"]).port)
    return [target for target in product.open_files() if not _POOLED.search(target) and target not in pooled]


def _sockets_to(port: int | None) -> set[str]:
    """Return the sockets of this host that lead to a port of it, as descriptors name them."""
    if port is None:
        return set()
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {f"socket:[{parts[9]}]" for parts in lines if parts[2].endswith(f":{port:04X}")}


def _threads(product: Product) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in product.worker_pids())


def let_time_pass(product: Product) -> None:
    """End every lease and waiting time, as if they had passed: the upkeep does the rest."""
    past = dt.datetime.now(dt.UTC) - _LONG_AGO
    with product.stack.database() as connection:
        connection.execute(update(Photo).where(Photo.state == PENDING).values(lease_until=past))
        connection.execute(update(OutboxRow).where(OutboxRow.kind == OBJECT_DELETE).values(available_at=past))


def settle(product: Product) -> None:
    """Wait until the upkeep has nothing left to do: no pending or deleting row, no delete that waits."""

    def is_settled() -> bool:
        let_time_pass(product)
        with product.stack.database() as connection:
            unfinished = connection.execute(select(func.count()).where(Photo.state != READY)).scalar_one()
            kind = OutboxRow.kind == OBJECT_DELETE
            return unfinished + connection.execute(select(func.count()).where(kind)).scalar_one() == 0

    until(is_settled, "the upkeep to finish", 40)


def require_consistency(product: Product, *clients: Client) -> None:
    """Objects are exactly those of ready rows (I3); each account's use is the sum of its photos (I4)."""
    settle(product)
    with product.stack.database() as connection:
        keys = set(connection.execute(select(Photo.object_key).where(Photo.state == READY)).scalars())
        used = {client.email: _used(connection, client) for client in clients}
    assert set(product.stack.object_keys()) == keys
    for email, (stated, summed) in used.items():
        assert stated == summed, email


def _used(connection: Connection, client: Client) -> tuple[int, int]:
    owner = connection.execute(select(User.id, User.used_bytes).where(User.email == client.email)).one()
    size = select(func.coalesce(func.sum(Photo.size_bytes), 0)).where(Photo.owner_id == owner.id)
    counted = connection.execute(size.where(Photo.state.in_((READY, PENDING)))).scalar_one()
    return owner.used_bytes, int(counted)


def require_whole(client: Client, acknowledged: Mapping[str, bytes]) -> None:
    """Every acknowledged photo reads back byte for byte (I1), and all that is visible is whole (I2)."""
    for photo in client.photos(limit=100):
        content = client.original(photo).content
        assert hashlib.sha256(content).hexdigest() == photo["sha256"]
    for photo_id, content in acknowledged.items():
        assert client.get(f"/api/v1/photos/{photo_id}/original").content == content


def require_again(client: Client, content: bytes) -> dict[str, Any]:
    """The same bytes upload again (I5)."""
    answer = client.send(content)
    assert answer.status_code in {200, 201}, answer.text
    document: dict[str, Any] = answer.json()
    return document


def require_fair_errors(answers: list[requests.Response]) -> None:
    """Server errors are among those allowed, all problem documents (I6)."""
    for answer in answers:
        if answer.status_code >= 400:
            assert answer.status_code < 500 or answer.status_code in _ALLOWED_ERRORS
            assert_problem(answer, answer.status_code)


def owner_id(client: Client) -> UUID:
    """Return a client's user id."""
    return UUID(client.get("/api/v1/users/me").json()["id"])
