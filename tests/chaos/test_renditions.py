"""Renditions under faults: kill -9 between every two steps, storage that fails, a crowd, a full scratch folder.

The steps of one rendition are a claim, the original, a decode, a PUT and the claim's end. Whoever dies between two of
them leaves a claim whose time ends; the next one who asks completes what is there.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from sqlalchemy import func, select, update

from app.db.base import utc_now
from app.db.outbox import PHOTO_RENDER, OutboxRow
from app.photos.models import MAKING, READY, PhotoRendition
from tests.chaos.barriers import World, open_world
from tests.chaos.crashes import OpenRequest, object_key, reconcile, settle
from tests.chaos.test_this_host import small_disk
from tests.fakes import images
from tests.fakes.fault_proxy import Barrier, Side, Status
from tests.fakes.postgres_proxy import When
from tests.images.processes import await_gone, children_of, has_a_job, wait_for
from tests.integration.judging import assert_problem
from tests.servers.client import Client
from tests.servers.postgres import PostgresServer
from tests.servers.product import RENDERING, START_SECONDS, Product, until
from tests.servers.stacks import Stack
from tests.servers.swift import SwiftServer

FULL = "/renditions/full?format=jpeg"
CROWD = 200
JOBS = "photo_api_engine_job_duration_seconds_count"


@pytest.fixture(scope="module")
def world(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with open_world(s3_server, postgres_server, tmp_path_factory.mktemp("renditions"), RENDERING) as opened:
        yield opened


@pytest.fixture(autouse=True)
def healed(world: World) -> Iterator[None]:
    yield
    world.heal()


def photograph(side: int = 1200) -> bytes:
    """Return a photo that takes a while to encode; each is another."""
    return images.encoded("jpeg", side, side * 2 // 3, seed=secrets.randbelow(1 << 30))


def described(world: Stack, photo: dict[str, Any]) -> bool:
    """Tell whether nothing is queued for a photo any more."""
    queued = select(func.count()).where(OutboxRow.kind == PHOTO_RENDER, OutboxRow.photo_id == UUID(photo["id"]))
    with world.database() as connection:
        return connection.execute(queued).scalar_one() == 0


def upload(product: Product, client: Client, content: bytes) -> dict[str, Any]:
    """Take a photo in, and wait until the relay is done with it."""
    photo = client.upload(content)
    until(lambda: described(product.stack, photo), "the relay", 60)
    return photo


def rows_of(stack: Stack, photo: dict[str, Any]) -> list[tuple[str, str]]:
    columns = (PhotoRendition.preset, PhotoRendition.state)
    with stack.database() as connection:
        found = connection.execute(select(*columns).where(PhotoRendition.photo_id == UUID(photo["id"])))
        return sorted((preset, state) for preset, state in found)


def keys_of(stack: Stack, photo: dict[str, Any]) -> list[str]:
    with closing(stack.open_store()) as store:
        return [info.key for info in store.list(f"{prefix_of(photo)}/full-")]


def end_claims(stack: Stack) -> None:
    with stack.database() as connection:
        ended = utc_now() - dt.timedelta(seconds=1)
        connection.execute(update(PhotoRendition).where(PhotoRendition.state == MAKING).values(lease_until=ended))
        connection.execute(update(OutboxRow).where(OutboxRow.kind == PHOTO_RENDER).values(available_at=ended))


def assert_whole(answer: requests.Response) -> None:
    assert answer.status_code == HTTPStatus.OK, answer.text
    assert answer.content.startswith(b"\xff\xd8\xff")
    assert answer.headers["ETag"].strip('"') == hashlib.sha256(answer.content).hexdigest()


def prefix_of(photo: dict[str, Any]) -> str:
    return f"renditions/{UUID(photo['id']).hex}"


@dataclass(frozen=True)
class Step:
    """Where a worker dies.

    Attributes:
        name: Of the test.
        arm: Sets a barrier up before the request is sent; the last one is where the worker dies.
        state: Of the row that it leaves; None for none.
    """

    name: str
    arm: Callable[[World, dict[str, Any]], list[Callable[[], Barrier]]]
    state: str | None = MAKING


def at_commit(when: When) -> Callable[[World, dict[str, Any]], list[Callable[[], Barrier]]]:
    return lambda world, photo: [lambda: world.commits.hold_commit(prefix_of(photo), when)]


def at_fetch(world: World, photo: dict[str, Any]) -> list[Callable[[], Barrier]]:
    return [lambda: world.hold("response", "GET", object_key(world.stack, photo))]


def at_put(side: Side) -> Callable[[World, dict[str, Any]], list[Callable[[], Barrier]]]:
    return lambda world, photo: [lambda: world.hold(side, "PUT", f"{prefix_of(photo)}/full")]


def at_finish(when: When) -> Callable[[World, dict[str, Any]], list[Callable[[], Barrier]]]:
    """The claim has passed when its PUT is held; the next transaction that names the size ends it."""

    def arm(world: World, photo: dict[str, Any]) -> list[Callable[[], Barrier]]:
        version = photo["links"]["full"].rpartition("v=")[2]
        return [*at_put("response")(world, photo), lambda: world.commits.hold_commit(version, when)]

    return arm


STEPS = [
    Step("before the claim", at_commit("before"), None),
    Step("after the claim", at_commit("after")),
    Step("while the original comes", at_fetch),
    Step("before the PUT", at_put("request")),
    Step("after the PUT", at_put("response")),
    Step("before the claim ends", at_finish("before")),
    Step("after the claim has ended", at_finish("after"), READY),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_worker_killed_between_two_steps_leaves_what_the_next_one_completes(world: World, step: Step) -> None:
    client = world.product.new_user()
    photo = upload(world.product, client, photograph())
    places = step.arm(world, photo)
    barrier = places[0]()
    with OpenRequest(world.product, client, f"GET {photo['links']['self']}{FULL}") as request:
        barrier.wait_until_reached()
        for place in places[1:]:
            following = place()
            barrier.release()
            barrier = following
            barrier.wait_until_reached()
        engines = children_of(request.worker())

        request.kill_worker()

        assert request.answer() is None
    left = rows_of(world.stack, photo)
    for pid in engines:
        await_gone(pid)
    end_claims(world.stack)
    again = client.twin().get(photo["links"]["self"] + FULL)
    barrier.release()

    assert [state for preset, state in left if preset == "full"] == ([] if step.state is None else [step.state])
    assert_whole(again)
    assert ("full", READY) in rows_of(world.stack, photo)
    assert len(keys_of(world.stack, photo)) == 1
    assert_whole(client.twin().get(photo["links"]["self"] + FULL))
    assert_settled(world)


def assert_settled(world: World) -> None:
    """Assert that database and store say the same, of originals and of renditions."""
    settle(world.stack)
    code, found = reconcile(world.product)
    assert (code, found["orphans"], found["missing"], found["lost_renditions"]) == (0, [], [], []), found


def test_a_worker_killed_while_its_engine_decodes_takes_the_engine_along(world: World) -> None:
    client = world.product.new_user()
    for _ in range(10):  # a kill that comes too late on a busy host says nothing
        photo = upload(world.product, client, photograph(3000))
        avif = f"{photo['links']['self']}/renditions/full?format=avif"
        with OpenRequest(world.product, client, f"GET {avif}") as request:
            worker = request.worker()
            wait_for(partial(is_at_work_or_done, request, worker))
            engines = engines_of(worker)

            request.kill_worker()

            answer = request.answer()
        if answer is None:
            break
        until(world.product.is_ready, "another worker", START_SECONDS)
    assert answer is None
    for pid in engines:
        await_gone(pid)
    end_claims(world.stack)

    made = client.twin().get(avif)

    assert (made.status_code, made.headers["Content-Type"]) == (200, "image/avif")
    assert_settled(world)


def is_at_work_or_done(request: OpenRequest, worker: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return request.has_answered(0.001) or any(has_a_job(pid) for pid in engines_of(worker))
    return False


def engines_of(worker: int) -> set[int]:
    """Return the engine's processes of a worker that still run."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return {pid for pid in children_of(worker) if Path(f"/proc/{pid}/fd").exists()}
    return set()


def test_a_relay_killed_in_the_middle_is_followed_by_another_one(world: World) -> None:
    client = world.product.new_user()
    barrier = world.hold("response", "GET", "originals/")
    photo = client.upload(photograph())
    barrier.wait_until_reached()

    world.product.kill_workers()
    end_claims(world.stack)
    world.objects.heal()
    barrier.release()
    until(lambda: described(world.stack, photo), "another relay", 60)

    shown = client.twin().get(photo["links"]["self"]).json()
    assert shown["processing_state"] == "done"
    assert shown["thumbhash"]
    assert [state for _, state in rows_of(world.stack, photo)] == [READY, READY]
    assert_settled(world)


def test_a_rendition_that_cannot_be_stored_is_served_and_stored_later(world: World) -> None:
    client = world.product.new_user()
    photo = upload(world.product, client, photograph())
    world.objects.inject(Status(507), method="PUT", path=prefix_of(photo))

    answers = [client.twin().get(photo["links"]["self"] + FULL) for _ in range(2)]
    while_down = keys_of(world.stack, photo)
    world.objects.heal()
    end_claims(world.stack)
    until(lambda: described(world.stack, photo), "the store's turn", 60)
    later = client.twin().get(photo["links"]["self"] + FULL)

    assert while_down == []
    for answer in (*answers, later):
        assert_whole(answer)
    assert ("full", READY) in rows_of(world.stack, photo)
    assert len(keys_of(world.stack, photo)) == 1
    assert_settled(world)


def test_row_32_two_hundred_cold_requests_over_two_processes_make_one_encoding(world: World) -> None:
    client = world.product.new_user()
    photo = upload(world.product, client, photograph(2400))
    until(lambda: world.product.metric(JOBS, outcome="done") > 0, "the figures")
    before = world.product.metric(JOBS, outcome="done")
    twins = [client.twin() for _ in range(CROWD)]

    with ThreadPoolExecutor(CROWD) as crowd:
        answers = list(crowd.map(lambda twin: patient(twin, photo), twins))

    for answer in answers:
        assert_whole(answer)
    assert len({answer.content for answer in answers}) == 1
    assert world.product.metric(JOBS, outcome="done") == before + 1
    assert keys_of(world.stack, photo) != []


def patient(twin: Client, photo: dict[str, Any]) -> requests.Response:
    """Ask, and again for as long as the server says that it is too much at once."""
    while True:
        answer = twin.get(photo["links"]["self"] + FULL)
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            return answer
        assert float(answer.headers["Retry-After"]) > 0


def test_a_full_scratch_folder_refuses_for_now_and_touches_nothing_else(
    new_product: Callable[..., Product], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "12m") as disk:
        product = new_product(settings={**RENDERING, "PHOTO_API_RENDITIONS__SCRATCH_DIR": str(disk / "scratch")})
        client = product.new_user()
        content = photograph() + bytes(3_000_000)
        photo = upload(product, client, content)
        filler = disk / "filler"
        filler.write_bytes(bytes(10 * 1024 * 1024))

        refused = client.twin().get(photo["links"]["self"] + FULL)
        stored = client.twin().get(photo["links"]["self"] + "/renditions/thumbnail?format=webp")
        original = client.original(photo)
        filler.unlink()
        made = client.twin().get(photo["links"]["self"] + FULL)

        assert_problem(refused, 503, "spool-full")
        assert stored.status_code == HTTPStatus.OK
        assert original.content == content
        assert_whole(made)
        until(lambda: list((disk / "scratch").iterdir()) == [], "the scratch folder to be empty")
        product.stop()
