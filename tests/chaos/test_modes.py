"""Modes of the real product: rows 2 and 27 at the door, with their controls, and deletes that wait for the store."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from sqlalchemy import func, select, text

from app.db.outbox import OBJECT_DELETE, OutboxRow
from tests.chaos.crashes import OpenRequest, assert_sound, object_key
from tests.chaos.guarded import MINIMUM, WITH_GUARDS, WITHOUT_GUARDS, World, left_as_found, running_world
from tests.fakes.fault_proxy import Status
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo, repr_digest
from tests.servers.postgres import PostgresServer
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import Stack, cloud_stack
from tests.servers.swift import SwiftServer

PHOTOS = "/api/v1/photos"
DIGEST = repr_digest(b"unknown")
A_PHOTO_TO_COME = ("Content-Type: image/jpeg", f"Content-Length: {3 * 1024 * 1024}", f"Repr-Digest: {DIGEST}")
"""The head of an upload that a thread gets before any of its body has come."""

SILENT_SECONDS = 0.5
"""How long a server that wants a body is watched while none comes; one that does not answers in milliseconds."""

LEAVING_SECONDS = 40.0
"""Loose: a mode is left within a second or two; one that nothing ends stays."""


@pytest.fixture(scope="module")
def stack(s3_server: SwiftServer, postgres_server: PostgresServer) -> Iterator[Stack]:
    with cloud_stack(s3_server, postgres_server) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(stack, tmp_path_factory.mktemp("modes"), WITH_GUARDS) as made:
        yield made


@pytest.fixture
def world(guarded: World) -> Iterator[World]:
    with left_as_found(guarded):
        yield guarded


@pytest.fixture(scope="module")
def several(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product with several workers on the same database, without any way to be told of it but its own."""
    with closing(Product(stack, tmp_path_factory.mktemp("several"), workers=3)) as product:
        yield product


def mode(product: Product) -> dict[str, Any]:
    """Return what ``/health`` says of the mode."""
    said: dict[str, Any] = requests.get(f"{product.url}/health", timeout=10).json()["mode"]
    return said


def readiness(product: Product) -> tuple[int, str]:
    """Return what one of the workers says of itself."""
    answer = requests.get(f"{product.url}/health/readiness", timeout=10)
    return answer.status_code, answer.json()["status"]


def on_the_page(product: Product) -> str:
    """Return the mode as the page of the workers tells it."""
    return str(json.loads(product.command("mode", "show", "--json").stdout)["mode"])


def offered(product: Product, client: Client) -> OpenRequest:
    """Return an upload whose head alone was sent."""
    return OpenRequest(product, client, f"POST {PHOTOS}", *A_PHOTO_TO_COME)


def asks_for_body(product: Product, client: Client) -> bool:
    """Tell whether an upload is not answered as long as nothing of its body has come."""
    with offered(product, client) as upload:
        return not upload.has_answered(SILENT_SECONDS)


def waiting_deletes(stack: Stack, photo: dict[str, Any]) -> int:
    with stack.database() as connection:
        ours = (OutboxRow.kind == OBJECT_DELETE, OutboxRow.photo_id == UUID(photo["id"]))
        return connection.execute(select(func.count()).where(*ours)).scalar_one()


def test_row_2_with_the_store_dead_uploads_end_at_the_door_and_all_that_needs_no_store_goes_on(world: World) -> None:
    user, contents = world.product.new_user(), [new_photo() for _ in range(3)]
    kept, trashed, removed = (user.upload(content) for content in contents)
    version = user.original(kept).headers["ETag"]
    before = asks_for_body(world.product, user)
    world.proxy.inject(Status(500))
    while world.state("storage_write") == "closed":
        assert_problem(user.send(new_photo()), 503)
    puts, gone = world.upstream("PUT"), object_key(world.stack, removed)

    with offered(world.product, user) as upload:
        refusal = upload.answer()
    until(lambda: mode(world.product)["reasons"] == ["storage_writes"], "the mode to be told")
    until(lambda: world.product.metric("photo_api_mode", mode="degraded") == 1, "the metric to tell of it")
    changed = user.patch(kept["links"]["self"], json={"title": "in an outage"})
    deleted = [
        user.delete(trashed["links"]["self"]).status_code,
        user.delete(removed["links"]["self"], params={"permanent": "true"}).status_code,
        user.get(removed["links"]["self"]).status_code,
        user.post(f"{trashed['links']['self']}/restore").status_code,
    ]
    read = [
        user.get(kept["links"]["self"]).status_code,
        user.get(f"{kept['links']['self']}/links").status_code,
        user.original(kept, **{"If-None-Match": version}).status_code,
        user.original(trashed).status_code,  # nobody has read it lately, so that no worker has its bytes
        len(user.photos()),
    ]
    until(lambda: world.proxy.count("DELETE") > 0, "the object's removal to be tried")
    waits = (waiting_deletes(world.stack, removed), gone in world.stack.object_keys())

    assert before
    assert refusal is not None
    assert (refusal.status, refusal.document["type"]) == (503, "urn:photo-api:problem:unavailable")
    assert int(refusal.headers["Retry-After"]) >= 2
    assert world.upstream("PUT") == puts
    assert mode(world.product)["name"] == "degraded"
    assert (changed.status_code, changed.json()["title"]) == (200, "in an outage")
    assert (deleted, read) == ([204, 204, 404, 200], [200, 200, 304, 503, 2])
    assert waits == (1, True)
    world.start_anew()
    until(lambda: mode(world.product)["name"] == "normal", "the mode to end by itself", LEAVING_SECONDS)
    assert_sound(world.product, user, {kept["id"]: contents[0], trashed["id"]: contents[1]})
    assert gone not in world.stack.object_keys()


def test_row_2_without_the_breaker_each_upload_is_read_and_asks_the_dead_store(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with (
        cloud_stack(s3_server, postgres_server) as stack,
        running_world(stack, tmp_path, WITHOUT_GUARDS) as bare,
    ):
        user = bare.product.new_user()
        bare.proxy.inject(Status(500))

        answers = [user.send(new_photo()).status_code for _ in range(MINIMUM)]

        assert (answers, bare.upstream("PUT")) == ([503] * MINIMUM, MINIMUM)
        assert asks_for_body(bare.product, user)
        assert mode(bare.product) == {"name": "normal", "reasons": []}


def end_older_connections(stack: Stack) -> None:
    """End every connection that began before now, those that are just being made included."""
    older = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND backend_start < :now"
    with stack.database() as connection:
        now = {"now": connection.execute(text("SELECT clock_timestamp()")).scalar_one()}

    def have_ended() -> bool:
        with stack.database() as connection:
            connection.execute(text(f"SELECT pg_terminate_backend(pid) {older}"), now)
            return not connection.execute(text(f"SELECT count(*) {older}"), now).scalar_one()

    until(have_ended, "the older connections to end")


@contextmanager
def read_only(stack: Stack) -> Iterator[None]:
    """Let the database take no changes for a while, as after a failover to a standby; all connections are new."""
    name = stack.database_url.rpartition("/")[2]
    with stack.database() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    end_older_connections(stack)
    try:
        yield
    finally:
        with stack.database() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        end_older_connections(stack)


def heads_until_every_worker_has_refused(product: Product, user: Client) -> set[str]:
    """Send heads of uploads until each worker has answered one; return the types of what they said."""
    missing, types = product.worker_pids(), set[str]()

    def has_refused() -> bool:
        with offered(product, user) as upload:
            missing.discard(upload.worker())
            answer = upload.answer()
        assert answer is not None
        types.add(f"{answer.status} {answer.document['type'].rpartition(':')[2]}")
        return not missing

    until(has_refused, "every worker to refuse at its door", 40)
    return types


def test_row_27_what_one_worker_was_refused_all_refuse_at_the_door_and_all_come_back_by_themselves(
    several: Product, stack: Stack
) -> None:
    user, content = several.new_user(), new_photo()
    photo = user.upload(content)
    objects = stack.object_keys()
    before = asks_for_body(several, user)

    with read_only(stack):
        until(lambda: user.patch(photo["links"]["self"], json={"title": "x"}).status_code == 503, "a refusal")
        until(lambda: mode(several) == {"name": "read_only", "reasons": ["database"]}, "the mode to be told")
        types = heads_until_every_worker_has_refused(several, user)
        changes = [
            user.patch(photo["links"]["self"], json={"title": "y"}),
            user.delete(photo["links"]["self"]),
            user.post("/api/v1/auth/tokens", json={"email": user.email, "password": user.password}),
            user.post("/api/v1/api-keys", json={"name": "k", "scopes": ["photos:read"]}),
        ]
        reads = [user.get(PHOTOS).status_code, user.original(photo).status_code]
        known = user.post(f"{PHOTOS}/check", json={"digests": [photo["sha256"]]}).status_code
        until(lambda: readiness(several) == (200, "warn"), "the mode to be sampled")
        shown = several.command("mode", "show").stdout
        until(lambda: several.metric("photo_api_mode", mode="read_only") == 1, "the metric to tell of it")
    until(lambda: on_the_page(several) == "normal", "the mode to end by itself", LEAVING_SECONDS)
    # A worker that has not used one of its ended connections since then learns of it by its next transaction.
    until(lambda: user.send(content).status_code == 200, "an upload to be taken")
    until(lambda: user.patch(photo["links"]["self"], json={"title": "z"}).status_code == 200, "a change to be taken")

    assert before
    assert types == {"503 read-only"}
    for answer in changes:
        assert_problem(answer, 503, "read-only")
    assert (reads, known) == ([200, 200], 200)
    assert shown.startswith("read_only\nread_only by database since ")
    assert stack.object_keys() == objects


def takes_accounts(product: Product) -> bool:
    """Tell whether an account can be made: after an outage the breaker of the database closes some moments later."""
    account = {"email": f"{secrets.token_hex(8)}@example.com", "password": "seven lamps above the sea"}
    return requests.post(f"{product.url}/api/v1/users", json=account, timeout=10).status_code == 201


def test_row_27_a_sample_finds_it_before_any_client_does_and_ends_it(several: Product, stack: Stack) -> None:
    until(lambda: takes_accounts(several), "the outage before to be over")
    user = several.new_user()

    with read_only(stack):
        until(lambda: on_the_page(several) == "read_only", "the mode, found by a sample alone", 40)
        types = heads_until_every_worker_has_refused(several, user)
    until(lambda: on_the_page(several) == "normal", "the mode to end by itself", LEAVING_SECONDS)

    assert types == {"503 read-only"}
    until(lambda: asks_for_body(several, user), "a body to be asked for")


def test_an_operator_s_word_holds_over_dead_workers_a_reload_and_a_restart_and_people_log_in(
    several: Product, stack: Stack
) -> None:
    user = several.new_user()
    photo = user.upload()
    said = several.command("mode", "set", "read-only", "--reason", "the store is being moved").stdout
    try:
        types = heads_until_every_worker_has_refused(several, user)
        several.kill_workers()
        types |= heads_until_every_worker_has_refused(several, user)
        old = several.worker_pids()
        os.kill(several.pid, signal.SIGHUP)
        until(lambda: not old & several.worker_pids() and several.is_ready(), "new workers", START_SECONDS)
        types |= heads_until_every_worker_has_refused(several, user)
        several.restart()
        types |= heads_until_every_worker_has_refused(several, user)
        user.log_in()
        refreshed = user.post("/api/v1/auth/tokens/refresh", json={"refresh_token": user.tokens["refresh_token"]})
        read = user.get(photo["links"]["self"]).status_code
        refused = user.delete(photo["links"]["self"])
        until(lambda: mode(several)["reasons"] == ["operator"], "the mode to be told")
        shown = several.command("mode", "show").stdout
    finally:
        taken_back = several.command("mode", "set", "normal").stdout

    assert said == "normal -> read-only. It holds in every worker with its next request.\n"
    assert types == {"503 read-only"}
    assert (refreshed.status_code, read) == (200, 200)
    assert_problem(refused, 503, "read-only")
    assert "the store is being moved" in shown
    assert taken_back.startswith("read-only -> normal.")
    assert user.delete(photo["links"]["self"]).status_code == 204
    assert stack.object_keys()


def test_an_operator_s_word_for_a_time_ends_by_itself(several: Product) -> None:
    user = several.new_user()
    several.command("mode", "set", "read-only", "--for", "7")

    refused = user.send(new_photo())

    assert_problem(refused, 503, "read-only")
    assert 1 <= int(refused.headers["Retry-After"]) <= 7
    until(lambda: user.send(new_photo()).status_code == 201, "the end of the time", LEAVING_SECONDS)
