"""What tests of crashes share: an upload on a connection of its own, time that passes, and the invariants.

Time passes in the database (:func:`let_time_pass`), so that nobody waits for a lease or for a delete's delay. The
tasks of maintenance run here, beside the product's own: two of them at once must do no harm.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import json
import os
import select as polling
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import func, select, update

from app.accounts.models import User
from app.db.base import utc_now
from app.db.engine import Database, SilentObserver
from app.db.leases import Lease
from app.db.outbox import OBJECT_DELETE, OutboxRow
from app.photos.models import DELETING, PENDING, READY, Photo
from app.photos.reconcile import PREFIX
from app.photos.reconcile import reconcile as compare_sides
from app.photos.upkeep import PhotoUpkeep
from app.settings import DatabaseSettings
from app.stability import Pipeline
from app.storage.base import ObjectStore
from tests.servers.client import Client
from tests.servers.product import Product, until
from tests.servers.stacks import Stack

_NOBODYS = "0"
"""The number of a socket that no process has: not yet accepted, or closed."""


class Answer:
    """The answer to an :class:`OpenRequest`."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.document: dict[str, Any] = json.loads(response.read())


class OpenRequest:
    """A request on a connection of its own, whose worker can be found; a context manager.

    Args:
        product: Where to.
        client: Whose.
        target: Method and path.
        lines: More headers.
    """

    def __init__(self, product: Product, client: Client, target: str, *lines: str) -> None:
        self._product = product
        self._socket = socket.create_connection(("127.0.0.1", product.port), 60)
        head = [f"{target} HTTP/1.1", "Host: localhost", f"Authorization: {client.http.headers['Authorization']!s}"]
        self._socket.sendall("\r\n".join([*head, *lines, "", ""]).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def worker(self) -> int:
        """Return the process id of the worker that has taken this connection."""
        found: list[int] = []

        def is_found() -> bool:
            found.extend(self._owners())
            return bool(found)

        until(is_found, "a worker to take the connection")
        return found[0]

    def kill_worker(self) -> int:
        """Kill that worker with SIGKILL and return its id."""
        pid = self.worker()
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in self._product.worker_pids(), "the worker's end")
        return pid

    def has_answered(self, seconds: float) -> bool:
        """Tell whether an answer comes within some seconds; what it says is left to :meth:`answer`."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if polling.select([self._socket], [], [], left)[0]:
                return True
        return False

    def answer(self) -> Answer | None:
        """Return the answer; None when the connection ends without one."""
        response = http.client.HTTPResponse(self._socket)
        try:
            response.begin()
            return Answer(response)
        except (ConnectionError, http.client.BadStatusLine, http.client.IncompleteRead):
            return None
        finally:
            response.close()

    def _owners(self) -> list[int]:
        link = f"socket:[{self._inode()}]"
        return [pid for pid in self._product.worker_pids() if link in _links(pid)]

    def _inode(self) -> str:
        ours = f":{self._socket.getsockname()[1]:04X}"
        theirs = f":{self._product.port:04X}"
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            parts = line.split()
            if parts[1].endswith(theirs) and parts[2].endswith(ours) and parts[9] != _NOBODYS:
                return parts[9]
        return "none"


class OpenUpload(OpenRequest):
    """An upload whose sending the test steers.

    Args:
        product: Where to.
        client: Whose.
        content: The photo.
        key: The idempotency key.
    """

    def __init__(self, product: Product, client: Client, content: bytes, *, key: str | None = None) -> None:
        lines = ["Content-Type: image/jpeg", f"Content-Length: {len(content)}"]
        lines += [] if key is None else [f"Idempotency-Key: {key}"]
        super().__init__(product, client, "POST /api/v1/photos", *lines)
        self._content = content

    def send_half(self) -> Self:
        """Send the first half of the body."""
        self._socket.sendall(self._content[: len(self._content) // 2])
        return self

    def send_rest(self) -> Self:
        """Send the second half of the body."""
        self._socket.sendall(self._content[len(self._content) // 2 :])
        return self

    def send_all(self) -> Self:
        """Send the whole body."""
        self._socket.sendall(self._content)
        return self


def wait_for_every_worker(product: Product, client: Client) -> None:
    """Wait until every worker answers from the database: each has to notice by itself that it is back."""
    waiting = product.worker_pids()

    def has_answered() -> bool:
        with OpenRequest(product, client, "GET /api/v1/users/me") as request:
            pid, answer = request.worker(), request.answer()
        if answer is not None and answer.status == 200:
            waiting.discard(pid)
        return not waiting

    until(has_answered, "the database in every worker")


def _links(pid: int) -> list[str]:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except FileNotFoundError:  # closed while we looked
            continue
    return links


class Heard:
    """Who hears of upkeep."""

    def __init__(self) -> None:
        self.reaped = 0

    def uploads_reaped(self, count: int) -> None:
        self.reaped += count

    def outbox_depth(self, pending: int, oldest_age_seconds: float) -> None: ...

    def renders_due(self, count: int) -> None: ...


@contextmanager
def opened_database(stack: Stack) -> Iterator[Database]:
    """Open the product's database as the product does."""
    database = Database(DatabaseSettings(url=SecretStr(stack.database_url)), SilentObserver())
    with closing(database):
        yield database


@contextmanager
def opened_upkeep(stack: Stack, store: ObjectStore | None = None) -> Iterator[PhotoUpkeep]:
    """Open the tasks of maintenance on the product's database, on its store or on another one."""
    with opened_database(stack) as database, closing(stack.open_store()) as own:
        yield PhotoUpkeep(
            database,
            own if store is None else store,
            Pipeline("events"),
            trash_days=30,
            observer=Heard(),
            changing=lambda _owner, _photos: nullcontext(),
        )


def end_leases(stack: Stack) -> None:
    """Make the leases of all pending uploads end."""
    with stack.database() as connection:
        ended = utc_now() - dt.timedelta(seconds=1)
        connection.execute(update(Photo).where(Photo.state == PENDING).values(lease_until=ended))


def let_time_pass(stack: Stack) -> None:
    """Make every lease end and every delayed delete due."""
    end_leases(stack)
    past = utc_now() - dt.timedelta(seconds=1)
    with stack.database() as connection:
        connection.execute(update(OutboxRow).where(OutboxRow.kind == OBJECT_DELETE).values(available_at=past))
        connection.execute(update(Lease).values(lease_until=past))


def settle(stack: Stack) -> None:
    """Let time pass and maintenance work until nothing is left to be done."""
    with opened_upkeep(stack) as upkeep:

        def is_settled() -> bool:
            let_time_pass(stack)
            upkeep.reap_ended_leases()
            upkeep.relay_deletes()
            return not unsettled(stack)

        until(is_settled, "uploads to be undone and objects to be removed")


def unsettled(stack: Stack) -> int:
    """Return how many rows are on their way in or out, deletes that wait included."""
    with stack.database() as connection:
        moving = select(func.count()).where(Photo.state.in_([PENDING, DELETING]))
        waiting = select(func.count()).where(OutboxRow.kind == OBJECT_DELETE)
        return connection.execute(moving).scalar_one() + connection.execute(waiting).scalar_one()


def rows(stack: Stack, state: str, owner_id: UUID | None = None) -> int:
    """Return how many photos are in a state."""
    owned = () if owner_id is None else (Photo.owner_id == owner_id,)
    with stack.database() as connection:
        return connection.execute(select(func.count()).where(Photo.state == state, *owned)).scalar_one()


def object_key(stack: Stack, photo: Mapping[str, Any]) -> str:
    """Return the key of a photo's object."""
    with stack.database() as connection:
        return connection.execute(select(Photo.object_key).where(Photo.id == UUID(photo["id"]))).scalar_one()


def let_objects_age(stack: Stack) -> None:
    """Wait until every object is older than now: S3 of Swift rounds an object's time up to a whole second."""
    with closing(stack.open_store()) as store:
        until(lambda: all(info.modified_at < utc_now() for info in store.list(PREFIX)), "objects to be of the past")


def reconcile(product: Product, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run ``python -m app reconcile`` without a grace time; return its exit code and its findings."""
    let_objects_age(product.stack)
    done = product.command("reconcile", "--grace-seconds", "0", "--json", *arguments, check=False)
    assert done.returncode in {0, 1}, done.stderr
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def assert_counted(stack: Stack) -> None:
    """Assert I3 and I4 of a settled product: one object a photo, and quotas that are the sums of their sizes."""
    with stack.database() as connection:
        keys = connection.execute(select(Photo.object_key).where(Photo.state == READY)).scalars().all()
        sums = select(Photo.owner_id, func.sum(Photo.size_bytes)).group_by(Photo.owner_id)
        sizes = dict(connection.execute(sums).all())
        used = dict(connection.execute(select(User.id, User.used_bytes)).all())
    assert sorted(stack.object_keys()) == sorted(keys)
    assert used == {user_id: int(sizes.get(user_id, 0)) for user_id in used}


def assert_sound(product: Product, client: Client, acknowledged: Mapping[str, bytes]) -> None:
    """Assert I1 to I5 of a settled product: what was acknowledged is there, and nothing else is.

    Args:
        product: The product.
        client: The only user whose photos the test touched.
        acknowledged: The bytes of each photo that was answered with success, by its id.
    """
    stack = product.stack
    settle(stack)
    photos = client.photos()
    assert acknowledged.keys() <= {photo["id"] for photo in photos}
    for photo in photos:
        original = client.original(photo)
        assert original.status_code == 200
        assert hashlib.sha256(original.content).hexdigest() == photo["sha256"]
        assert acknowledged.get(photo["id"], original.content) == original.content
    assert_counted(stack)
    for photo_id, content in acknowledged.items():
        again = client.send(content)
        assert (again.status_code, again.json()["id"]) == (200, photo_id)
    let_objects_age(stack)
    with opened_database(stack) as database, closing(stack.open_store()) as store:
        found = compare_sides(database, store, grace_seconds=0, is_dry_run=True)
    assert found.is_clean, found
