"""When a token is fetched, used on, renewed and dropped: a clock by hand, and a source that is told what to say."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.stability import CircuitBreaker, CircuitBreakerOptions, Deadline, Pipeline, deadline_scope
from app.storage.base import DenialReason, StorageDeniedError, StorageTokenError
from app.storage.guarded import TOKEN_CLASSIFICATION
from app.storage.swift_auth import DENIED_SECONDS, EARLY_SECONDS, SwiftTokens
from app.storage.swift_identity import DENIED, SwiftAccess, token_error
from tests.fakes.clocks import HandClock

HALF_A_DAY = 43_200.0
URL = "https://storage.example.org/v1/AUTH_a"


class Source:
    """Issues tokens that are numbered; fails and waits as it is told."""

    def __init__(self) -> None:
        self.lives_seconds = HALF_A_DAY
        self.error: Callable[[], Exception] | None = None
        self.gate: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.calls = 0
        self._lock = threading.Lock()

    def authenticate(self) -> SwiftAccess:
        with self._lock:
            self.calls += 1
            number = self.calls
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.error is not None:
            raise self.error()
        return SwiftAccess(f"token-{number}", URL, self.lives_seconds)

    def close(self) -> None:
        """Nothing is open."""


def denial() -> Exception:
    error = StorageDeniedError(DENIED)
    error.__cause__ = DenialReason("the identity service answered 401")
    return error


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def tokens(source: Source, clock: HandClock) -> SwiftTokens:
    return SwiftTokens(source, clock=clock)


def wait_for_renewal() -> None:
    for thread in threading.enumerate():
        if thread.name == "swift-token":
            thread.join(20)


def test_token_is_fetched_once_and_used_until_five_minutes_before_its_end(
    tokens: SwiftTokens, source: Source, clock: HandClock
) -> None:
    first = tokens.current()
    clock.advance(HALF_A_DAY - EARLY_SECONDS - 1)

    again = tokens.current()

    assert (first.token, again.token, source.calls) == ("token-1", "token-1", 1)
    assert tokens.storage_url == URL


def test_fifty_callers_without_a_token_make_one_call(tokens: SwiftTokens, source: Source) -> None:
    source.gate = threading.Event()
    start = threading.Barrier(51)

    def ask(_number: int) -> str:
        start.wait()
        return tokens.current().token

    with ThreadPoolExecutor(50) as pool:
        found = pool.map(ask, range(50))
        start.wait()
        assert source.entered.acquire(timeout=20)
        source.gate.set()
        assert set(found) == {"token-1"}

    assert source.calls == 1


def test_who_boards_just_after_the_call_has_ended_takes_what_it_brought(tokens: SwiftTokens, source: Source) -> None:
    tokens.current()

    assert tokens._sign_in().token == "token-1"
    assert source.calls == 1


def test_token_near_its_end_is_used_while_one_thread_renews_it(
    tokens: SwiftTokens, source: Source, clock: HandClock
) -> None:
    tokens.current()
    clock.advance(HALF_A_DAY - EARLY_SECONDS)
    source.gate = threading.Event()

    during = {tokens.current().token for _ in range(10)}
    source.gate.set()
    wait_for_renewal()

    assert during == {"token-1"}
    assert tokens.current().token == "token-2"
    assert source.calls == 2


def test_token_that_lives_for_a_minute_is_renewed_at_half_of_it(
    tokens: SwiftTokens, source: Source, clock: HandClock
) -> None:
    source.lives_seconds = 60
    tokens.current()

    clock.advance(29)
    tokens.current()
    assert source.calls == 1
    clock.advance(2)
    tokens.current()
    wait_for_renewal()

    assert (tokens.current().token, source.calls) == ("token-2", 2)


def test_old_token_is_used_to_its_end_while_the_service_is_down_and_asked_for_every_ten_seconds(
    tokens: SwiftTokens, source: Source, clock: HandClock
) -> None:
    tokens.current()
    source.error = token_error
    clock.advance(HALF_A_DAY - EARLY_SECONDS)

    for _ in range(29):
        assert tokens.current().token == "token-1"
        wait_for_renewal()
        assert tokens.current().token == "token-1"
        clock.advance(10)

    assert source.calls == 1 + 29
    clock.advance(EARLY_SECONDS)
    with pytest.raises(StorageTokenError):
        tokens.current()


def test_token_that_has_ended_is_not_used(tokens: SwiftTokens, clock: HandClock) -> None:
    tokens.current()

    clock.advance(HALF_A_DAY)

    assert tokens.current().token == "token-2"


def test_fifty_callers_whose_token_was_refused_make_one_call(tokens: SwiftTokens, source: Source) -> None:
    dead = tokens.current()
    start = threading.Barrier(50)

    def replace(_number: int) -> str:
        start.wait()
        return tokens.replace(dead).token

    with ThreadPoolExecutor(50) as pool:
        found = set(pool.map(replace, range(50)))

    assert found == {"token-2"}
    assert source.calls == 2


def test_late_word_of_a_dead_token_does_not_drop_its_successor(tokens: SwiftTokens, source: Source) -> None:
    dead = tokens.current()
    tokens.replace(dead)

    assert tokens.replace(dead).token == "token-2"
    assert source.calls == 2


def test_wrong_credentials_are_asked_about_every_five_seconds_and_logged_once_a_minute(
    tokens: SwiftTokens, source: Source, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    source.error = denial
    caplog.set_level(logging.ERROR)

    for _ in range(120):
        with pytest.raises(StorageDeniedError) as caught:
            tokens.current()
        assert "401" in str(caught.value.__cause__)
        clock.advance(1)

    assert source.calls == 120 / DENIED_SECONDS
    assert [record.getMessage() for record in caplog.records] == [
        "no access to the object store: the identity service answered 401"
    ] * 2


def test_right_credentials_are_taken_as_soon_as_the_denial_is_over(
    tokens: SwiftTokens, source: Source, clock: HandClock
) -> None:
    source.error = denial
    with pytest.raises(StorageDeniedError):
        tokens.current()
    source.error = None

    clock.advance(DENIED_SECONDS)

    assert tokens.current().token == "token-2"


def test_new_token_that_is_refused_as_well_is_no_reason_to_sign_in_again(
    tokens: SwiftTokens, source: Source, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    renewed = tokens.replace(tokens.current())

    with pytest.raises(StorageDeniedError):
        tokens.reject(renewed)
    for _ in range(10):
        with pytest.raises(StorageDeniedError, match="operator"):
            tokens.current()

    assert source.calls == 2
    assert len(caplog.records) == 1
    clock.advance(DENIED_SECONDS)
    assert tokens.current().token == "token-3"


def test_refusal_of_the_pipeline_is_told_as_no_token(source: Source) -> None:
    breaker = CircuitBreaker(
        "swift_auth",
        CircuitBreakerOptions(minimum_number_of_calls=2, sliding_window_size=2),
        classification=TOKEN_CLASSIFICATION,
    )
    tokens = SwiftTokens(source, pipeline=Pipeline("swift_auth", [breaker]))
    source.error = token_error

    for _ in range(5):
        with pytest.raises(StorageTokenError) as caught:
            tokens.current()

    assert source.calls == 2
    assert caught.value.retry_after_seconds is not None


def test_denial_opens_no_breaker(source: Source, clock: HandClock) -> None:
    breaker = CircuitBreaker(
        "swift_auth",
        CircuitBreakerOptions(minimum_number_of_calls=2, sliding_window_size=2),
        classification=TOKEN_CLASSIFICATION,
    )
    tokens = SwiftTokens(source, pipeline=Pipeline("swift_auth", [breaker]), clock=clock)
    source.error = denial

    for _ in range(5):
        with pytest.raises(StorageDeniedError):
            tokens.current()
        clock.advance(DENIED_SECONDS)

    assert source.calls == 5


def test_who_waits_for_another_ones_call_waits_to_its_own_deadline(tokens: SwiftTokens, source: Source) -> None:
    source.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(tokens.current)
        assert source.entered.acquire(timeout=20)

        with deadline_scope(Deadline(0.05)), pytest.raises(StorageTokenError):
            tokens.current()

        source.gate.set()
        assert leader.result(20).token == "token-1"


def test_no_secret_stands_in_a_repr() -> None:
    assert "token-1" not in repr(SwiftAccess("token-1", URL, 1.0))
