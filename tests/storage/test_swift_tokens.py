"""Tokens that end, die and cannot be had, under many threads: rows 15 to 17, NHN's identity before a real Swift.

Each promise is shown twice: with its guard, and with the guard off, where it must break.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import pytest

from app.stability import CircuitBreaker, CircuitBreakerOptions, Deadline, Pipeline, deadline_scope
from app.storage import swift_auth
from app.storage.base import ObjectStore, StorageDeniedError, StorageTimeoutError, StorageTokenError
from app.storage.guarded import TOKEN_CLASSIFICATION, GuardedObjectStore, StoragePipelines
from app.storage.probe import BytesBody, verify
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_auth import EARLY_SECONDS, SwiftTokens
from app.storage.swift_identity import IdentityService
from tests.fakes.bodies import pattern
from tests.fakes.clocks import HandClock
from tests.fakes.fault_proxy import Barrier, FaultProxy, Status
from tests.fakes.storage_pipelines import quick_storage_pipelines
from tests.servers.identity import IdentityServer
from tests.servers.product import until
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

CALLERS = 50
HALF_A_DAY = 43_200.0
OPEN_SECONDS = 5.0
LONG_SECONDS = 60.0
"""So long a service is waited for by whom nothing else holds back."""
CONTENT = pattern(20_000)


@pytest.fixture
def proxy(s3_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def identity(s3_server: SwiftServer, proxy: FaultProxy) -> Iterator[IdentityServer]:
    with IdentityServer(s3_server, storage_url=proxy.url + ACCOUNT_PATH) as service:
        yield service


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def breaker(clock: HandClock) -> CircuitBreaker:
    options = CircuitBreakerOptions(
        minimum_number_of_calls=3, sliding_window_size=3, wait_duration_in_open_state_seconds=OPEN_SECONDS
    )
    return CircuitBreaker("swift_auth", options, classification=TOKEN_CLASSIFICATION, clock=clock)


@pytest.fixture
def tokens(identity: IdentityServer, clock: HandClock, breaker: CircuitBreaker) -> SwiftTokens:
    source = IdentityService(replace(identity.identity(), timeout_seconds=LONG_SECONDS))
    return SwiftTokens(source, pipeline=Pipeline("swift_auth", [breaker]), clock=clock)


@pytest.fixture
def store(identity: IdentityServer, swift_config: SwiftConfig, tokens: SwiftTokens) -> Iterator[SwiftObjectStore]:
    store = SwiftObjectStore(replace(swift_config, identity=identity.identity(), max_connections=64), tokens=tokens)
    yield store
    store.close()


@pytest.fixture
def pipelines() -> StoragePipelines:
    return quick_storage_pipelines()


@pytest.fixture
def guarded(store: SwiftObjectStore, pipelines: StoragePipelines) -> GuardedObjectStore:
    return GuardedObjectStore(store, pipelines)


def put(store: ObjectStore, key: str) -> None:
    store.put(key, BytesBody(CONTENT), content_type="image/jpeg")


def read(store: ObjectStore, key: str) -> bytes:
    with store.open(key) as reader:
        return b"".join(reader)


def all_at_once(call: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(CALLERS)

    def wait_and_call(number: int) -> Any:
        start.wait()
        return call(number)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(wait_and_call, range(CALLERS)))


@pytest.mark.parametrize("version", ["2", "3"])
def test_store_works_with_the_tokens_and_the_address_of_each_protocol(
    identity: IdentityServer, swift_config: SwiftConfig, version: Literal["2", "3"]
) -> None:
    store = SwiftObjectStore(replace(swift_config, identity=identity.identity(version)))

    verify(store)
    put(store, "a")

    assert read(store, "a") == CONTENT
    assert identity.asked == 1
    store.close()


def test_row_15_dead_token_under_fifty_uploads_costs_one_call_and_no_upload(
    guarded: GuardedObjectStore,
    store: SwiftObjectStore,
    pipelines: StoragePipelines,
    identity: IdentityServer,
    s3_server: SwiftServer,
) -> None:
    put(store, "warm")
    s3_server.revoke_tokens()

    all_at_once(lambda number: put(guarded, f"k/{number}"))

    assert identity.asked == 1 + 1
    assert {read(store, f"k/{number}") == CONTENT for number in range(CALLERS)} == {True}
    breaker = pipelines.write.find(CircuitBreaker)
    assert breaker is not None
    assert breaker.snapshot().failures == 0


def test_row_15_first_use_by_fifty_readers_costs_one_call(
    guarded: GuardedObjectStore, identity: IdentityServer, swift_config: SwiftConfig
) -> None:
    direct = SwiftObjectStore(swift_config)
    put(direct, "a")

    found = all_at_once(lambda _number: read(guarded, "a"))

    assert set(found) == {CONTENT}
    assert identity.asked == 1
    direct.close()


def test_row_15_control_without_one_flight_many_sign_in(
    store: SwiftObjectStore,
    tokens: SwiftTokens,
    identity: IdentityServer,
    s3_server: SwiftServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class EachAlone:
        def run(self, _key: str, function: Callable[[], Any]) -> Any:
            return function()

    put(store, "a")
    monkeypatch.setattr(tokens, "_flights", EachAlone())
    identity.hold = Barrier()
    s3_server.revoke_tokens()
    with ThreadPoolExecutor(CALLERS) as pool:
        waiting = [pool.submit(read, store, "a") for _ in range(CALLERS)]

        until(lambda: identity.asked == 1 + CALLERS, "a call of each")

        identity.hold.release()
        assert {one.result(20) for one in waiting} == {CONTENT}


def test_row_15_control_without_a_second_attempt_uploads_fail(
    store: SwiftObjectStore, tokens: SwiftTokens, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a")
    monkeypatch.setattr(tokens, "replace", lambda refused: refused)
    s3_server.revoke_tokens()

    with pytest.raises(StorageDeniedError):
        put(store, "b")


def test_row_16_token_service_that_is_down_costs_nothing_while_the_token_lives(
    guarded: GuardedObjectStore, identity: IdentityServer, clock: HandClock
) -> None:
    put(guarded, "a")
    clock.advance(HALF_A_DAY - EARLY_SECONDS)
    identity.lie = (503, {}, b"")

    for number in range(10):
        put(guarded, f"k/{number}")
        assert read(guarded, f"k/{number}") == CONTENT

    until(lambda: identity.asked == 2, "the early renewal")


def test_row_16_token_service_that_hangs_costs_no_request_while_the_token_lives(
    guarded: GuardedObjectStore, identity: IdentityServer, clock: HandClock
) -> None:
    put(guarded, "a")
    clock.advance(HALF_A_DAY - EARLY_SECONDS)
    identity.hold = Barrier()

    started = time.monotonic()
    assert read(guarded, "a") == CONTENT
    took = time.monotonic() - started
    identity.hold.wait_until_reached()
    identity.hold.release()

    assert took < 15  # and not as long as a request or a call for a token may take


def test_row_16_control_without_the_old_token_the_outage_is_felt_at_once(
    guarded: GuardedObjectStore,
    tokens: SwiftTokens,
    identity: IdentityServer,
    clock: HandClock,
) -> None:
    put(guarded, "a")
    clock.advance(HALF_A_DAY - EARLY_SECONDS)
    identity.lie = (503, {}, b"")
    tokens._drop(tokens.current())

    with pytest.raises(StorageTokenError):
        read(guarded, "a")


def test_row_16_without_a_token_the_breaker_of_the_token_service_opens_and_not_the_stores(
    guarded: GuardedObjectStore,
    pipelines: StoragePipelines,
    identity: IdentityServer,
    breaker: CircuitBreaker,
    proxy: FaultProxy,
) -> None:
    identity.lie = (500, {}, b"")

    for _ in range(30):
        with pytest.raises(StorageTokenError) as caught:
            read(guarded, "a")
        assert caught.value.retry_after_seconds is not None

    assert (identity.asked, proxy.count()) == (3, 0)
    assert breaker.snapshot().state.name == "OPEN"
    of_store = pipelines.read.find(CircuitBreaker)
    assert of_store is not None
    assert of_store.snapshot().state.name == "CLOSED"


def test_row_16_service_that_is_back_is_asked_once_for_all(
    guarded: GuardedObjectStore, identity: IdentityServer, clock: HandClock, breaker: CircuitBreaker
) -> None:
    put(guarded, "a")
    clock.advance(HALF_A_DAY)
    identity.lie = (500, {}, b"")
    for _ in range(3):
        with pytest.raises(StorageTokenError):
            read(guarded, "a")
    identity.lie = None
    assert breaker.snapshot().state.name == "OPEN"
    clock.advance(OPEN_SECONDS)
    asked = identity.asked

    found = all_at_once(lambda _number: read(guarded, "a"))

    assert set(found) == {CONTENT}
    assert identity.asked == asked + 1


def test_row_17_changed_password_is_denied_without_a_storm_and_logged_once_a_minute(
    guarded: GuardedObjectStore,
    identity: IdentityServer,
    s3_server: SwiftServer,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(guarded, "a")
    identity.password = "another"
    s3_server.revoke_tokens()
    caplog.set_level(logging.ERROR, logger=swift_auth.__name__)

    def ask(_number: int) -> bool:
        with pytest.raises(StorageDeniedError):
            read(guarded, "a")
        return True

    assert all(all_at_once(ask))
    assert identity.asked == 1 + 1
    for _ in range(60):
        clock.advance(1)
        ask(0)

    assert identity.asked <= 2 + 60 / swift_auth.DENIED_SECONDS
    assert len(caplog.records) == 2
    assert all("SWIFT_AUTH_URL" in record.getMessage() for record in caplog.records)
    assert "another" not in caplog.text


def test_row_17_control_without_the_memory_of_a_denial_each_request_asks_again(
    guarded: GuardedObjectStore,
    identity: IdentityServer,
    s3_server: SwiftServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(guarded, "a")
    identity.password = "another"
    s3_server.revoke_tokens()
    monkeypatch.setattr(swift_auth, "DENIED_SECONDS", 0.0)

    for _ in range(10):
        with pytest.raises(StorageDeniedError):
            read(guarded, "a")

    assert identity.asked == 1 + 10


def test_row_17_right_password_is_taken_again_within_seconds(
    guarded: GuardedObjectStore, identity: IdentityServer, s3_server: SwiftServer, clock: HandClock
) -> None:
    put(guarded, "a")
    right, identity.password = identity.password, "another"
    s3_server.revoke_tokens()
    with pytest.raises(StorageDeniedError):
        read(guarded, "a")

    identity.password = right
    clock.advance(swift_auth.DENIED_SECONDS)

    assert read(guarded, "a") == CONTENT


def test_token_that_the_store_never_takes_ends_after_one_more(
    guarded: GuardedObjectStore, identity: IdentityServer, proxy: FaultProxy
) -> None:
    proxy.inject(Status(401))

    for _ in range(10):
        with pytest.raises(StorageDeniedError):
            read(guarded, "a")

    assert (identity.asked, proxy.count()) == (2, 2)


def test_clock_of_the_service_two_hours_ahead_changes_nothing(
    store: SwiftObjectStore, identity: IdentityServer, clock: HandClock
) -> None:
    identity.skew_seconds, identity.lives_seconds = -7200, 3600
    put(store, "a")

    clock.advance(3600 - EARLY_SECONDS - 5)

    assert read(store, "a") == CONTENT
    assert identity.asked == 1


def test_account_that_moves_is_followed(
    store: SwiftObjectStore, identity: IdentityServer, s3_server: SwiftServer, proxy: FaultProxy, clock: HandClock
) -> None:
    put(store, "a")
    seen = proxy.count()
    identity.storage_url = s3_server.url + ACCOUNT_PATH
    clock.advance(HALF_A_DAY)

    assert read(store, "a") == CONTENT

    assert proxy.count() == seen
    proxy.wait_until_no_connection()


def test_wait_for_a_token_ends_with_the_deadline(store: SwiftObjectStore, identity: IdentityServer) -> None:
    identity.hold = Barrier()

    started = time.monotonic()
    with deadline_scope(Deadline(0.3)), pytest.raises((StorageTokenError, StorageTimeoutError)):
        read(store, "a")

    assert time.monotonic() - started < LONG_SECONDS / 3
