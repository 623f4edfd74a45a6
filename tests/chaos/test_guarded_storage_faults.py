"""What guards make of an object store that fails, hangs or crawls: rows 1 to 11, 17 and 18, on a real Swift.

Each promise is shown twice: with its guard, and with the guard off, where it must break.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import requests

from app.photos.small_originals import SMALL_BYTES
from app.stability import CircuitBreaker, CircuitBreakerOptions, Classification, Pipeline, Retry, RetryOptions
from app.stability.outcome import EVERY_ERROR_FAILS
from app.storage.base import StorageError, StorageUnavailableError
from app.storage.guarded import STORAGE_CLASSIFICATION, GuardedObjectStore, StoragePipelines
from app.storage.s3 import S3Config, S3ObjectStore
from tests.chaos.crashes import assert_counted, assert_sound, object_key, settle
from tests.chaos.guarded import (
    ATTEMPTS,
    BUDGET_FLOOR,
    MINIMUM,
    OPEN_SECONDS,
    PLACES,
    QUEUE,
    SLOW_SECONDS,
    TRIALS,
    WITH_AN_EYE_FOR_SLOWNESS,
    WITH_GUARDS,
    Figures,
    World,
    at_once,
    left_as_found,
    pass_by,
    photo_of,
    retry_after,
    running_world,
    timed,
)
from tests.fakes.fault_proxy import Barrier, Cut, Drip, Fault, FaultProxy, Hold, Reset, Status
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import until
from tests.servers.stacks import Stack, cloud_stack
from tests.servers.swift import SwiftServer

UPLOAD_SECONDS = DOWNLOAD_SECONDS = 4.0
"""Longer than a busy machine lets a process stand still: what is well is never given up."""

SETTINGS = {
    "PHOTO_API_STORAGE__UPLOAD_TIMEOUT_SECONDS": str(UPLOAD_SECONDS),
    "PHOTO_API_STORAGE__DOWNLOAD_TIMEOUT_SECONDS": str(DOWNLOAD_SECONDS),
}
LOOSE_SECONDS = 10.0
"""What a busy machine may add."""

MIB = 1024 * 1024
LARGE = 3 * MIB
STREAMED = SMALL_BYTES + 1
"""So large that each download reads the store: what is smaller is read once for all who want it at the same time."""


@pytest.fixture(scope="module")
def stack(s3_server: SwiftServer, postgres_server: PostgresServer) -> Iterator[Stack]:
    with cloud_stack(s3_server, postgres_server) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(stack, tmp_path_factory.mktemp("guarded"), WITH_GUARDS, SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def bare(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same without guards, but for a breaker that looks at how slow reads are."""
    with running_world(stack, tmp_path_factory.mktemp("bare"), WITH_AN_EYE_FOR_SLOWNESS, SETTINGS) as made:
        yield made


@pytest.fixture
def world(guarded: World) -> Iterator[World]:
    """The guarded product with closed breakers, and left so."""
    with left_as_found(guarded):
        yield guarded


@pytest.fixture
def watching(bare: World) -> Iterator[World]:
    """The bare product, whose one breaker is closed, and left so."""
    bare.start_anew(("storage_read",))
    yield bare
    bare.start_anew(("storage_read",))


@pytest.fixture
def user(world: World) -> Client:
    return world.product.new_user()


@dataclass(frozen=True)
class Once:
    """A fault of one call, after which all is well; ``stored`` says whether the store has the photo all the same."""

    name: str
    fault: Fault
    stored: bool = False


def held(fault: Fault) -> None:
    if isinstance(fault, Hold):
        fault.barrier.release()


def puts() -> list[Once]:
    return [
        Once("1 500", Status(500)),
        Once("3 429 for a second", Status(429, (("Retry-After", "1"),))),
        Once("6 hangs before it is stored", Hold("request", Barrier())),
        Once("6 hangs when it is stored", Hold("response", Barrier()), stored=True),
        Once("7 reset before the body", Reset("request")),
        Once("7 reset mid body", Reset("request", 2 * MIB)),
        Once("8 stored and reply lost", Reset("response"), stored=True),
    ]


def gets() -> list[Once]:
    return [
        Once("1 500", Status(500)),
        Once("6 hangs", Hold("response", Barrier())),
        Once("7 reset before the answer", Reset("response")),
        Once("11 ends in the first chunk", Cut(100)),
    ]


@pytest.mark.parametrize("case", puts(), ids=lambda case: case.name)
def test_one_fault_of_an_upload_is_made_good_by_a_second_attempt(world: World, user: Client, case: Once) -> None:
    content, before, figures = new_photo(LARGE), world.upstream("PUT"), Figures(world.product)
    world.proxy.inject(case.fault, method="PUT", times=1)

    answer = user.send(content, key=secrets.token_hex(8))
    held(case.fault)

    photo = photo_of(answer)
    assert world.upstream("PUT") - before == 2
    assert figures.calls("storage_write") == {"failed": 1, "successful": 1}
    assert figures.retries("storage_write", "succeeded_after_retry") == 1
    assert (world.state("storage_write"), world.health()[0]) == ("closed", 200)
    assert_sound(world.product, user, {photo["id"]: content})


@pytest.mark.parametrize("case", puts(), ids=lambda case: case.name)
def test_without_a_retry_one_fault_of_an_upload_reaches_the_client(bare: World, case: Once) -> None:
    user, before = bare.product.new_user(), bare.upstream("PUT")
    bare.proxy.inject(case.fault, method="PUT", times=1)

    answer = user.send(new_photo(LARGE))
    held(case.fault)

    assert_problem(answer, 503)
    assert bare.upstream("PUT") - before == 1


@pytest.mark.parametrize("case", gets(), ids=lambda case: case.name)
def test_one_fault_of_a_download_is_made_good_by_a_second_attempt(world: World, user: Client, case: Once) -> None:
    content = new_photo()
    photo = user.upload(content)
    save_up_retries(user, photo)
    before, figures = world.upstream("GET"), Figures(world.product)
    world.proxy.inject(case.fault, method="GET", times=1)

    answer = user.original(photo)
    held(case.fault)

    assert (answer.status_code, answer.content) == (200, content)
    assert world.upstream("GET") - before == 2
    assert figures.calls("storage_read") == {"failed": 1, "successful": 1}
    assert figures.retries("storage_read", "succeeded_after_retry") == 1
    assert world.state("storage_read") == "closed"


def save_up_retries(user: Client, photo: dict[str, Any]) -> None:
    """Let as many calls succeed as fill the budget up, whatever was there before."""
    for _ in range(round(BUDGET_FLOOR / RetryOptions().budget_ratio)):
        assert user.original(photo).status_code == 200


@pytest.mark.parametrize("case", gets(), ids=lambda case: case.name)
def test_without_a_retry_one_fault_of_a_download_reaches_the_client(bare: World, case: Once) -> None:
    user = bare.product.new_user()
    photo = user.upload()
    bare.proxy.inject(case.fault, method="GET", times=1)

    answer = user.original(photo)
    held(case.fault)

    assert answer.status_code in {503, 504}


def test_row_2_an_outage_is_refused_at_once_and_ends_with_trial_calls(world: World, user: Client) -> None:
    content = new_photo(STREAMED)
    photo, key, figures = user.upload(content), secrets.token_hex(8), Figures(world.product)
    world.proxy.inject(Status(500))

    failed = [*fail_until_open(world, user), user.send(new_photo(), key=key)]
    before = (world.upstream("GET"), world.upstream("PUT"))
    refused = [user.original(photo) for _ in range(10)] + [user.send(new_photo()) for _ in range(10)]
    after = (world.upstream("GET"), world.upstream("PUT"))
    states = (world.state("storage_read"), world.state("storage_write"))
    listed = user.photos()

    for answer in [*failed, *refused]:
        assert_problem(answer, 503)
        assert 1 <= retry_after(answer) <= OPEN_SECONDS
    assert (after, states) == (before, ("open", "open"))
    for name in ("storage_read", "storage_write"):
        assert figures.calls(name)["not_permitted"] >= 10
        assert figures.calls(name)["failed"] <= ATTEMPTS * len(failed)
    assert [one["id"] for one in listed] == [photo["id"]]
    assert user.used_bytes() == len(content)
    world.wait_for_health(200, "warn")
    world.proxy.heal()
    require_trial_calls(world, user, photo)
    world.wait_until_over("storage_write")
    acknowledged = {photo["id"]: content}
    for number in range(TRIALS + 1):
        content = new_photo()
        answer = user.send(content, key=key if number == 0 else secrets.token_hex(8))
        acknowledged[photo_of(answer)["id"]] = content
    assert world.state("storage_write") == "closed"
    assert_sound(world.product, user, acknowledged)


def fail_until_open(world: World, user: Client) -> list[requests.Response]:
    """Upload and download until both breakers are open; return what the client was told."""
    photo, answers = user.photos()[0], list[requests.Response]()
    calls: dict[str, Callable[[], requests.Response]] = {
        "storage_read": lambda: user.original(photo),
        "storage_write": lambda: user.send(new_photo()),
    }
    for name, call in calls.items():
        count = 0
        while world.state(name) == "closed":
            answers.append(call())
            count += 1
            assert count <= MINIMUM
    return answers


def require_trial_calls(world: World, user: Client, photo: dict[str, Any]) -> None:
    """Exactly so many downloads as are permitted reach the store, whose answers then close the breaker."""
    barrier, before = Barrier(), world.upstream("GET")
    world.wait_until_over("storage_read")
    world.proxy.inject(Hold("response", barrier), method="GET", path="/originals/")
    with ThreadPoolExecutor(TRIALS + 5) as pool:
        asked = [pool.submit(user.twin().original, photo) for _ in range(TRIALS + 5)]
        until(lambda: sum(one.done() for one in asked) >= 5, "all but the trial calls")
        until(lambda: world.upstream("GET") - before >= TRIALS, "the trial calls")
        reached, state = world.upstream("GET") - before, world.state("storage_read")
        barrier.release()
        statuses = sorted(one.result().status_code for one in asked)
    world.proxy.heal()
    assert (reached, state) == (TRIALS, "half_open")
    assert statuses == [200] * TRIALS + [503] * 5
    assert world.state("storage_read") == "closed"


def test_without_a_breaker_an_outage_reaches_the_store_with_every_request(world: World, user: Client) -> None:
    photo, before = user.upload(), world.upstream("GET")
    world.set_breaker("storage_read", "disabled")
    world.proxy.inject(Status(500))

    answers = [user.original(photo) for _ in range(40)]

    assert {answer.status_code for answer in answers} == {503}
    assert world.upstream("GET") - before >= 40


def test_rows_2_and_3_a_thousand_requests_in_an_outage_make_few_more_calls(world: World, user: Client) -> None:
    photo, before, figures = user.upload(new_photo(STREAMED)), world.upstream("GET"), Figures(world.product)
    world.set_breaker("storage_read", "disabled")  # or there would be fewer still
    world.proxy.inject(Status(500))

    # No more at once than there are places: whom the bulkhead refuses calls nobody.
    count = 1000 // PLACES
    statuses = at_once(user, PLACES, lambda twin: {twin.original(photo).status_code for _ in range(count)})

    assert set().union(*statuses) == {503}
    assert 1000 <= world.upstream("GET") - before <= 1200 + BUDGET_FLOOR
    assert figures.retries("storage_read", "budget_spent") > 700


@pytest.mark.parametrize(("floor", "is_bounded"), [(BUDGET_FLOOR, True), (1_000, False)], ids=["budget", "no budget"])
def test_without_its_budget_a_retry_would_make_an_outage_worse(
    s3_config: S3Config, s3_server: SwiftServer, floor: int, *, is_bounded: bool
) -> None:
    with FaultProxy(s3_server.port) as proxy, guarded_store(s3_config, proxy, budget_floor=floor) as store:
        proxy.inject(Status(500))

        for _ in range(100):
            with pytest.raises(StorageUnavailableError):
                store.head("a")

        assert (proxy.count() <= 120 + BUDGET_FLOOR) is is_bounded


@pytest.mark.parametrize("code", ["503 SlowDown", "429"])
def test_row_3_a_store_that_asks_for_a_pause_gets_it_and_the_client_is_told(
    world: World, user: Client, code: str
) -> None:
    content, before, figures = new_photo(), world.upstream("PUT"), Figures(world.product)
    body = b"<Error><Code>SlowDown</Code></Error>" if "Slow" in code else b""
    world.proxy.inject(Status(int(code[:3]), (("Retry-After", "30"),), body))

    answers = [user.send(content, key="pause") for _ in range(3)]
    world.proxy.heal()
    photo = photo_of(user.send(content, key="pause"))

    for answer in answers:
        assert_problem(answer, 503)
        assert retry_after(answer) >= 30
    assert world.upstream("PUT") - before == 4
    assert figures.retries("storage_write", "retry_after_too_long") == 3
    errors = "photo_api_external_request_errors_total"
    assert figures.moved(errors, operation="put", kind="StorageThrottledError") == 3
    assert_sound(world.product, user, {photo["id"]: content})


@pytest.mark.parametrize(("how", "read"), [("refuse", 503), ("swallow", 504)])
def test_rows_4_and_5_a_store_that_cannot_be_reached_costs_no_more_than_its_attempts(
    world: World, user: Client, how: str, read: int
) -> None:
    content = new_photo()
    photo, before, figures = user.upload(content), world.upstream("PUT"), Figures(world.product)
    getattr(world.proxy, how)()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(user.twin().original, photo)
        uploads = at_once(user, PLACES, lambda twin: timed(lambda: twin.send(new_photo())))
        download = reading.result()
    state, tried = world.state("storage_write"), figures.calls("storage_write")
    refused = user.send(new_photo())
    then = figures.calls("storage_write")
    listed, health = user.photos(), world.health()[0]
    world.proxy.heal()

    for upload, seconds in uploads:
        assert_problem(upload, 503)
        assert seconds <= ATTEMPTS * UPLOAD_SECONDS + LOOSE_SECONDS
    assert_problem(download, read)
    assert_problem(refused, 503)
    assert MINIMUM - 1 <= tried["failed"] <= ATTEMPTS * len(uploads)  # one result was the first upload's
    assert (state, world.upstream("PUT")) == ("open", before)
    assert then == {**tried, "not_permitted": tried.get("not_permitted", 0) + 1}  # refused at once
    assert ([one["id"] for one in listed], health) == ([photo["id"]], 200)
    back = new_photo()
    until(lambda: user.send(back).status_code in {200, 201}, "the store to be asked again", 40)
    assert_sound(world.product, user, {photo["id"]: content})


def test_without_a_breaker_every_request_waits_for_a_store_that_cannot_be_reached(world: World, user: Client) -> None:
    world.set_breaker("storage_write", "disabled")
    world.proxy.swallow()
    at_once(user, PLACES, lambda twin: twin.send(new_photo()))

    answer, seconds = timed(lambda: user.send(new_photo()))

    assert_problem(answer, 503)
    assert seconds >= UPLOAD_SECONDS


def test_row_4_a_name_that_is_not_found_counts_as_a_failure(
    s3_config: S3Config, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with FaultProxy(s3_server.port) as proxy, guarded_store(s3_config, proxy) as store:
        monkeypatch.setattr(socket, "getaddrinfo", find_nothing)

        with pytest.raises(StorageUnavailableError):
            store.head("a")

        assert store.breaker.snapshot().calls["failed"] == ATTEMPTS
        assert proxy.count() == 0


@dataclass(frozen=True)
class Final:
    """An answer that another attempt cannot change."""

    status: int
    told: int


FINAL = [Final(401, 503), Final(403, 503), Final(413, 507), Final(507, 507)]


@pytest.mark.parametrize("case", FINAL, ids=lambda case: str(case.status))
def test_rows_15_17_and_18_what_an_operator_must_mend_is_neither_retried_nor_counted(
    world: World, user: Client, case: Final
) -> None:
    content = new_photo()
    photo, before, figures = user.upload(content), world.upstream("PUT"), Figures(world.product)
    world.proxy.inject(Status(case.status), method="PUT")

    answers = [user.send(new_photo()) for _ in range(MINIMUM + 1)]
    read, health = user.original(photo), world.health()[0]

    for answer in answers:
        assert_problem(answer, case.told)
    assert world.upstream("PUT") - before == len(answers)
    assert figures.calls("storage_write") == {"ignored": len(answers)}
    assert (world.state("storage_write"), health) == ("closed", 200)
    assert (read.content, user.used_bytes()) == (content, len(content))
    settle(world.stack)
    assert_counted(world.stack)


@pytest.mark.parametrize("case", FINAL, ids=lambda case: str(case.status))
def test_without_its_classification_it_would_be_retried_and_counted(
    s3_config: S3Config, s3_server: SwiftServer, case: Final
) -> None:
    with (
        FaultProxy(s3_server.port) as proxy,
        guarded_store(s3_config, proxy, classification=EVERY_ERROR_FAILS) as store,
    ):
        proxy.inject(Status(case.status))

        with pytest.raises(StorageError):
            store.head("a")

        assert proxy.count() == store.breaker.snapshot().calls["failed"] == ATTEMPTS


@pytest.mark.parametrize("state", ["closed", "disabled"], ids=["breaker", "no breaker"])
def test_row_9_answers_that_are_slow_open_the_breaker_though_all_of_them_come(watching: World, state: str) -> None:
    world, user = watching, watching.product.new_user()
    contents, other = [new_photo() for _ in range(PLACES - 1)], new_photo()
    slow, quick = [user.upload(content) for content in contents], user.upload(other)
    world.set_breaker("storage_read", state)
    keys, figures = [object_key(world.stack, photo) for photo in slow], Figures(world.product)

    came: list[requests.Response] = []
    while len(came) < MINIMUM and world.state("storage_read") == state:
        all_seen, middle = world.upstream("GET") + len(slow), Barrier()
        for key in keys:
            world.proxy.inject(Hold("response", middle, 100), path=key)
        with ThreadPoolExecutor(len(slow)) as pool:
            asked = [pool.submit(user.twin().original, photo) for photo in slow]
            until(partial(has_seen, world, all_seen), "the downloads to begin")
            if not came:  # later the breaker may open meanwhile: what lasts is slow before it ends
                assert user.original(quick).status_code == user.get("/api/v1/photos").status_code == 200
            assert [one.done() for one in asked] == [False] * len(asked)
            pass_by(2 * SLOW_SECONDS)
            middle.release()
            came += [one.result() for one in asked]
        world.proxy.heal()

    assert {(answer.status_code, answer.content) for answer in came} == {(200, content) for content in contents}
    assert figures.calls("storage_read").get("failed", 0) == 0
    assert world.state("storage_read") == ("open" if state == "closed" else "disabled")
    assert user.original(quick).status_code == (503 if state == "closed" else 200)


def has_seen(world: World, downloads: int) -> bool:
    return world.upstream("GET") >= downloads


def test_row_9_a_body_that_never_ends_is_given_up_in_time(world: World, user: Client) -> None:
    photo, figures = user.upload(), Figures(world.product)
    world.proxy.inject(Drip(piece_bytes=1, pause_seconds=0.05), method="GET")

    answer, seconds = timed(lambda: user.original(photo))

    assert_problem(answer, 504)
    assert DOWNLOAD_SECONDS <= seconds <= ATTEMPTS * DOWNLOAD_SECONDS + LOOSE_SECONDS
    assert figures.calls("storage_read").keys() == {"failed"}
    until(lambda: world.in_use("storage_read") == 0, "its place to be free")


@pytest.mark.parametrize("has_places", [True, False], ids=["bulkhead", "no bulkhead"])
def test_rows_6_and_10_uploads_that_hang_keep_their_places_and_no_more(
    world: World, bare: World, *, has_places: bool
) -> None:
    world = world if has_places else bare
    user, barrier, figures = world.product.new_user(), Barrier(), Figures(world.product)
    content = new_photo()
    photo, before = user.upload(content), world.upstream("PUT")
    world.proxy.inject(Hold("request", barrier), method="PUT", times=PLACES)

    with ThreadPoolExecutor(PLACES) as pool:
        hanging = [pool.submit(user.twin().send, new_photo()) for _ in range(PLACES)]
        until(lambda: world.upstream("PUT") - before == PLACES, "uploads to hang")
        more = at_once(user, QUEUE + 4, lambda twin: twin.send(new_photo()))
        reached, were_first = world.upstream("PUT") - before - PLACES, not any(one.done() for one in hanging)
        read = user.original(photo)
        barrier.release()
        statuses = {one.result().status_code for one in hanging}

    assert (read.content, world.health()[0]) == (content, 200)
    if not has_places:
        assert (reached, {answer.status_code for answer in more}) == (len(more), {201})
        return
    assert (reached, were_first, statuses) == (0, True, {201})
    for answer in more:
        assert_problem(answer, 503)
    assert figures.moved("photo_api_shed_total", name="storage_write") == len(more)
    assert world.in_use("storage_write") == 0
    settle(world.stack)
    assert_counted(world.stack)


@pytest.mark.parametrize("state", ["closed", "disabled"], ids=["breaker", "no breaker"])
def test_row_11_a_truncated_photo_never_looks_whole_and_a_store_that_truncates_opens_the_breaker(
    world: World, user: Client, state: str
) -> None:
    content = new_photo(LARGE)
    photo = user.upload(content)
    world.set_breaker("storage_read", state)
    world.proxy.inject(Cut(MIB), method="GET")

    for _ in range(MINIMUM // 2):  # each of them is opened, which is a success, and then breaks off
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            user.original(photo)
    expected = "open" if state == "closed" else "disabled"
    until(lambda: world.state("storage_read") == expected, f"the breaker to be {expected}")
    world.proxy.heal()
    world.start_anew()

    assert user.original(photo).content == content


NEVER_OPENS = CircuitBreakerOptions(minimum_number_of_calls=10_000, sliding_window_size=10_000)


class LookedAtStore(GuardedObjectStore):
    """A guarded store whose breaker can be looked at."""

    def __init__(self, store: S3ObjectStore, pipeline: Pipeline) -> None:
        super().__init__(store, StoragePipelines(pipeline, pipeline, pipeline, pipeline))
        found = pipeline.find(CircuitBreaker)
        assert found is not None
        self.breaker = found


@contextmanager
def guarded_store(
    config: S3Config,
    proxy: FaultProxy,
    *,
    classification: Classification = STORAGE_CLASSIFICATION,
    budget_floor: int = BUDGET_FLOOR,
) -> Iterator[LookedAtStore]:
    """Yield a store behind a retry that does not wait and a breaker that counts and never opens."""
    retry = RetryOptions(base_seconds=1e-6, cap_seconds=1e-6, budget_floor=budget_floor)
    pipeline = Pipeline(
        "storage",
        [
            Retry("storage", retry, classification=classification),
            CircuitBreaker("storage", NEVER_OPENS, classification=classification),
        ],
    )
    with closing(LookedAtStore(S3ObjectStore(replace(config, endpoint_url=proxy.url)), pipeline)) as store:
        yield store
