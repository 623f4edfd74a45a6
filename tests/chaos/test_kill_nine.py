"""kill -9 of a worker, or of the whole server, at the barriers of an upload on PostgreSQL and a real Swift.

What happens on SQLite and a folder is in ``test_kill_nine_embedded.py``.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from sqlalchemy import update

from app.db.base import utc_now
from app.photos.models import DELETING, PENDING, READY, Photo
from app.storage.probe import BytesBody
from tests.chaos.barriers import World, open_world
from tests.chaos.crashes import (
    OpenUpload,
    assert_sound,
    end_leases,
    let_objects_age,
    let_time_pass,
    object_key,
    opened_upkeep,
    reconcile,
    rows,
    settle,
    unsettled,
    wait_for_every_worker,
)
from tests.fakes.fault_proxy import Barrier, Hold
from tests.servers.base import stand_still
from tests.servers.client import new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import until
from tests.servers.swift import SwiftServer

KIB = 1024
LEASE_SECONDS = 30
"""Longer than it takes to see that a lease holds; what is to end, a test lets end."""

START_SECONDS = 60.0
"""For a command to begin its work, on a machine that has other work."""

NEWS_OF_A_READY_PHOTO = '{"owner_id":'  # its payload: no other transaction sends it


@pytest.fixture(scope="module")
def world(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    settings = {
        "PHOTO_API_UPLOADS__LEASE_SECONDS": str(LEASE_SECONDS),
        # Making a connection may take as long: a command that stands still meanwhile would give up.
        "PHOTO_API_DATABASE__POOL_TIMEOUT_SECONDS": "10",
    }
    with open_world(s3_server, postgres_server, tmp_path_factory.mktemp("killed"), settings) as opened:
        yield opened


@pytest.fixture(autouse=True)
def healed(world: World) -> Iterator[None]:
    yield
    world.heal()


@dataclass(frozen=True)
class Moment:
    """One barrier: how it is set up, and what it leaves behind.

    Attributes:
        name: Of the test.
        arm: Sets it up.
        size_bytes: Of the photo.
        is_pending: Whether the killed upload leaves a pending row.
        is_committed: Whether its photo is ready.
        arrives: Whether the PUT arrives all the same when the barrier lets it go.
    """

    name: str
    arm: Callable[[World], Barrier | None]
    size_bytes: int = 200 * KIB
    is_pending: bool = True
    is_committed: bool = False
    arrives: bool = False

    def reach(self, world: World, upload: OpenUpload) -> Barrier | None:
        """Set up, send, and come back when the upload stands at the barrier."""
        barrier = self.arm(world)
        if barrier is None:
            upload.send_half().worker()
            return None
        upload.send_all()
        barrier.wait_until_reached()
        return barrier

    def let_go(self, world: World, barrier: Barrier | None, objects: int) -> None:
        """Let what the barrier holds go on, and wait until it has come to its end."""
        if barrier is not None:
            barrier.release()
        if self.arrives:
            until(lambda: len(world.stack.object_keys()) > objects, "the PUT of the dead worker")


MOMENTS = [
    Moment("half a body", lambda _: None, is_pending=False),
    Moment("before TX 1", lambda world: world.commits.hold_commit("originals/", "before"), is_pending=False),
    # Small: all of it is on its way when its worker dies.
    Moment("after TX 1", lambda world: world.hold("request", "PUT"), size_bytes=2 * KIB, arrives=True),
    Moment("mid PUT", lambda world: world.hold("request", "PUT", after_bytes=64 * KIB), size_bytes=16 * KIB * KIB),
    Moment("after PUT", lambda world: world.hold("response", "PUT")),
    Moment("before TX 2", lambda world: world.commits.hold_commit(NEWS_OF_A_READY_PHOTO, "before")),
    Moment(
        "after TX 2",
        lambda world: world.commits.hold_commit(NEWS_OF_A_READY_PHOTO, "after"),
        is_pending=False,
        is_committed=True,
    ),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_a_killed_worker_loses_nothing_acknowledged_and_leaves_nothing_behind(world: World, moment: Moment) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo(moment.size_bytes)
    kept_content = new_photo()
    kept = client.upload(kept_content)
    objects = len(world.stack.object_keys())
    with OpenUpload(world.product, client, content, key=key) as upload:
        barrier = moment.reach(world, upload)

        upload.kill_worker()

        assert upload.answer() is None
    assert client.twin().get("/api/v1/users/me").status_code == 200
    assert rows(world.stack, PENDING) == moment.is_pending
    early = client.send(content, key=key)
    end_leases(world.stack)
    late = client.send(content, key=key)
    moment.let_go(world, barrier, objects + 1)

    if moment.is_pending:
        assert (early.status_code, 1 <= int(early.headers["Retry-After"]) <= LEASE_SECONDS) == (409, True), early.text
    else:
        assert early.status_code == 201
        assert early.headers.get("Idempotency-Replayed") == ("true" if moment.is_committed else None)
    assert late.status_code == 201
    assert late.headers.get("Idempotency-Replayed") == (None if moment.is_pending else "true")
    assert moment.is_pending or late.json() == early.json()
    assert_sound(world.product, client, {kept["id"]: kept_content, late.json()["id"]: content})
    assert len(client.photos()) == 2


@pytest.mark.parametrize(
    "moment", [moment for moment in MOMENTS if "before" not in moment.name], ids=lambda moment: moment.name
)
def test_a_killed_server_starts_again_and_cleans_up_by_itself(world: World, moment: Moment) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo(moment.size_bytes)
    kept_content = new_photo()
    kept = client.upload(kept_content)
    objects = len(world.stack.object_keys())
    with OpenUpload(world.product, client, content, key=key) as upload:
        barrier = moment.reach(world, upload)

        world.product.kill()

        assert upload.answer() is None
    moment.let_go(world, barrier, objects)
    let_time_pass(world.stack)
    world.product.start()
    until(lambda: rows(world.stack, PENDING) == 0, "the product's own reaper")
    again = client.send(content, key=key)

    assert again.status_code == 201
    assert again.headers.get("Idempotency-Replayed") == ("true" if moment.is_committed else None)
    reaped = int(moment.is_pending)
    until(lambda: world.product.metric("photo_api_orphans_reaped_total") == reaped, "the figure of orphans")
    assert_sound(world.product, client, {kept["id"]: kept_content, again.json()["id"]: content})
    code, found = reconcile(world.product)
    assert (code, found["orphans"], found["missing"]) == (0, [], []), found


def test_the_lease_of_a_dead_worker_ends_by_itself_and_the_key_is_taken_over(world: World) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo()
    barrier = world.hold("request", "PUT")
    with OpenUpload(world.product, client, content, key=key) as upload:
        upload.send_all()
        barrier.wait_until_reached()
        upload.kill_worker()
    answers = [client.send(content, key=key).status_code]
    with world.stack.database() as connection:  # it has been a while
        soon = utc_now() + dt.timedelta(seconds=2)
        connection.execute(update(Photo).where(Photo.state == PENDING).values(lease_until=soon))

    def is_stored() -> bool:
        answers.append(client.send(content, key=key).status_code)
        return answers[-1] == 201

    until(is_stored, "the lease's end")

    assert answers[0] == 409
    assert set(answers) == {409, 201}
    settle(world.stack)
    assert len(client.photos()) == 1


def test_a_put_that_arrives_after_its_row_is_gone_is_found_and_removed_by_reconcile(world: World) -> None:
    client, content = world.product.new_user(), new_photo()
    photo = client.upload(content)
    barrier = world.hold("request", "PUT")
    with OpenUpload(world.product, client, new_photo()) as upload:
        upload.send_all()
        barrier.wait_until_reached()
        upload.kill_worker()
    settle(world.stack)
    objects = len(world.stack.object_keys())
    barrier.release()
    until(lambda: len(world.stack.object_keys()) > objects, "the PUT of the dead worker")
    by_hand = f"originals/{secrets.token_hex(16)}/{secrets.token_hex(16)}"
    with closing(world.stack.open_store()) as store:
        store.put(by_hand, BytesBody(b"put by hand"), content_type="image/jpeg")

    dry = reconcile(world.product)
    kept = len(world.stack.object_keys())
    removing = reconcile(world.product, "--delete")

    assert (dry[0], len(dry[1]["orphans"]), dry[1]["removed"], kept) == (1, 2, 0, objects + 2)
    assert by_hand in dry[1]["orphans"]
    assert (removing[0], removing[1]["removed"]) == (0, 2)
    assert_sound(world.product, client, {photo["id"]: content})


def test_killed_between_an_objects_removal_and_its_rows(world: World) -> None:
    client, kept_content = world.product.new_user(), new_photo()
    kept, photo = client.upload(kept_content), client.upload()
    barrier = Barrier()
    key = object_key(world.stack, photo)
    world.objects.inject(Hold("response", barrier), method="DELETE", path=key, times=1)
    assert client.delete(photo["links"]["self"], params={"permanent": "true"}).status_code == 204

    let_time_pass(world.stack)
    barrier.wait_until_reached(40)
    assert (rows(world.stack, DELETING), key in world.stack.object_keys()) == (1, False)
    world.product.kill_workers()
    barrier.release()

    assert client.get(photo["links"]["self"]).status_code == 404
    assert_sound(world.product, client, {kept["id"]: kept_content})
    assert (rows(world.stack, DELETING), unsettled(world.stack)) == (0, 0)


def test_reconcile_killed_while_it_removes_is_run_again(world: World) -> None:
    client, content = world.product.new_user(), new_photo()
    photo = client.upload(content)
    settle(world.stack)
    mark = secrets.token_hex(16)
    with closing(world.stack.open_store()) as store:
        for number in range(3):
            key = f"originals/{mark}/{number}"
            store.put(key, BytesBody(b"an orphan"), content_type="image/jpeg")
    let_objects_age(world.stack)
    ready = rows(world.stack, READY)
    passing, held = Barrier(), Barrier()
    passing.release()
    world.objects.inject(Hold("response", passing), method="DELETE", path=mark, times=1)
    world.objects.inject(Hold("response", held), method="DELETE", path=mark, times=1)
    command = [sys.executable, "-m", "app", "reconcile", "--grace-seconds", "0", "--delete"]
    running = subprocess.Popen(command, cwd=world.product.folder, env=world.product.environ)
    try:
        held.wait_until_reached(START_SECONDS)
    finally:  # else another test would find it running
        running.kill()
        running.wait()
    held.release()

    code, again = reconcile(world.product, "--delete")
    assert (code, again["removed"]) == (0, 1)
    assert rows(world.stack, READY) == ready
    assert_sound(world.product, client, {photo["id"]: content})


def test_reconcile_whose_database_dies_in_the_middle_fails_and_is_run_again(world: World) -> None:
    client, content = world.product.new_user(), new_photo()
    photo = client.upload(content)
    settle(world.stack)
    barrier = Barrier()
    world.objects.inject(Hold("response", barrier), method="HEAD", path="originals/", times=1)
    command = [sys.executable, "-m", "app", "reconcile", "--grace-seconds", "0", "--delete", "--json"]
    running = subprocess.Popen(
        command,
        cwd=world.product.folder,
        env=world.product.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    barrier.wait_until_reached(START_SECONDS)

    world.commits.cut()
    barrier.release()
    output, errors = running.communicate(timeout=60)
    world.commits.heal()

    assert (running.returncode, output) == (1, "")
    assert "database" in errors
    assert "Traceback" not in errors
    wait_for_every_worker(world.product, client)
    assert_sound(world.product, client, {photo["id"]: content})


def test_a_photo_whose_object_is_lost_is_listed_and_never_removed(world: World) -> None:
    client, content = world.product.new_user(), new_photo()
    kept, lost = client.upload(content), client.upload()
    with closing(world.stack.open_store()) as store:
        store.delete(object_key(world.stack, lost))

    dry, removing = reconcile(world.product), reconcile(world.product, "--delete")

    for code, found in (dry, removing):
        assert (code, found["missing"], found["removed"]) == (1, [lost["id"]], 0)
    assert {photo["id"] for photo in client.photos()} == {kept["id"], lost["id"]}
    assert client.original(lost).status_code == 502
    assert client.delete(lost["links"]["self"], params={"permanent": "true"}).status_code == 204
    assert_sound(world.product, client, {kept["id"]: content})


@pytest.mark.parametrize("has_time_passed", [True, False], ids=["object removed before", "object removed later"])
def test_a_stopped_worker_that_lost_its_lease_is_fenced(world: World, has_time_passed: bool) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo(200 * KIB)
    used = client.used_bytes()
    barrier = world.hold("request", "PUT", after_bytes=64 * KIB)
    with OpenUpload(world.product, client, content, key=key) as upload:
        upload.send_all()
        barrier.wait_until_reached()
        stopped = upload.worker()
        stand_still(stopped)
        try:
            end_leases(world.stack)
            with opened_upkeep(world.stack) as upkeep:
                upkeep.reap_ended_leases()
            if has_time_passed:
                settle(world.stack)
        finally:
            os.kill(stopped, signal.SIGCONT)
        barrier.release()

        answer = upload.answer()

    assert answer is None or answer.status == 503
    assert answer is None or int(answer.headers["Retry-After"]) >= 1
    assert (client.photos(), client.used_bytes()) == ([], used)
    assert_sound(world.product, client, {})
    again = client.send(content, key=key)
    assert again.status_code == 201
    assert_sound(world.product, client, {again.json()["id"]: content})


def test_a_commit_whose_answer_is_lost_with_the_database_is_not_undone(world: World) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo()
    barrier = world.commits.hold_commit(NEWS_OF_A_READY_PHOTO, "after")
    with OpenUpload(world.product, client, content, key=key) as upload:
        upload.send_all()
        barrier.wait_until_reached()

        world.commits.cut()
        barrier.release()

        lost = upload.answer()
    world.commits.heal()
    wait_for_every_worker(world.product, client)
    again = client.send(content, key=key)

    assert lost is not None
    assert lost.status == 503
    assert int(lost.headers["Retry-After"]) >= 1
    assert (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, "true"), again.text
    assert_sound(world.product, client, {again.json()["id"]: content})


def test_a_commit_whose_answer_is_lost_is_looked_up_where_the_database_lives(world: World) -> None:
    client, content = world.product.new_user(), new_photo()
    barrier = world.commits.hold_commit(NEWS_OF_A_READY_PHOTO, "after")
    with OpenUpload(world.product, client, content) as upload:
        upload.send_all()
        barrier.wait_until_reached()

        world.commits.cut(stays_down=False)
        barrier.release()

        answer = upload.answer()
    wait_for_every_worker(world.product, client)

    assert answer is not None
    assert answer.status == 201
    assert_sound(world.product, client, {answer.document["id"]: content})


def test_a_database_that_dies_between_put_and_commit_leaves_nothing_half(world: World) -> None:
    client, key, content = world.product.new_user(), secrets.token_hex(8), new_photo()
    barrier = world.commits.hold_commit(NEWS_OF_A_READY_PHOTO, "before")
    with OpenUpload(world.product, client, content, key=key) as upload:
        upload.send_all()
        barrier.wait_until_reached()

        world.commits.cut()

        answer = upload.answer()
    barrier.release()
    world.commits.heal()
    wait_for_every_worker(world.product, client)

    assert answer is not None
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.photos() == []
    end_leases(world.stack)
    again = client.send(content, key=key)
    assert again.status_code == 201
    assert_sound(world.product, client, {again.json()["id"]: content})
