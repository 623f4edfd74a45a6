"""The wall clock may jump by an hour: nothing in the library reads it but the date of a ``Retry-After``."""

from __future__ import annotations

import ast
import datetime as dt
import time
from collections.abc import Callable
from email.utils import format_datetime
from pathlib import Path

import pytest

from app.stability import (
    Cache,
    CacheOptions,
    Call,
    CallNotPermittedError,
    CircuitBreaker,
    CircuitBreakerOptions,
    Deadline,
    Pipeline,
    RateLimit,
    RateLimitExceededError,
    RateLimitOptions,
    Retry,
    RetryOptions,
    State,
    Timeout,
    TimeoutOptions,
    deadline_scope,
    retry_after,
)

PACKAGE = Path(__file__).resolve().parents[2] / "app" / "stability"
READS_OF_THE_WALL_CLOCK = {
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime", "time.ctime"),
    *("time.clock_gettime", "time.clock_gettime_ns", "datetime.now", "datetime.utcnow", "datetime.today"),
    *("date.today", "os.times"),
}
HOUR = 3600.0


def wall_clock_reads(source: str) -> list[str]:
    """Return what a module's source reads of the wall clock, by the last two parts of each name."""
    tree = ast.parse(source)
    found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    taken = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return [name for name in [*found, *taken] if ".".join(name.split(".")[-2:]) in READS_OF_THE_WALL_CLOCK]


def test_only_the_date_of_a_retry_after_is_compared_with_the_wall_clock() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): reads
        for path in sorted(PACKAGE.rglob("*.py"))
        if (reads := wall_clock_reads(path.read_text(encoding="utf-8")))
    }

    assert found == {"retry_after.py": ["datetime.now"]}


@pytest.mark.parametrize(
    "source",
    [
        "import time\nt = time.time()",
        "from time import time\nt = time()",
        "import datetime\nt = datetime.datetime.now()",
        "from datetime import datetime\nt = datetime.utcnow()",
    ],
)
def test_a_read_of_the_wall_clock_would_be_found(source: str) -> None:
    assert wall_clock_reads(source) != []


@pytest.fixture(params=[HOUR, -HOUR], ids=["ahead", "back"])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that lets the wall clock of this process jump."""
    seconds, real = float(request.param), time.time

    class Jumped(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Jumped:
            return cls.fromtimestamp(real() + seconds, tz)

    def happen() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: int((real() + seconds) * 1e9))
        monkeypatch.setattr(retry_after, "datetime", Jumped)

    return happen


def refuse(*_arguments: object) -> None:
    raise ConnectionRefusedError


@pytest.mark.parametrize("window", ["count_based", "time_based"])
def test_a_jump_changes_no_breaker(jump: Callable[[], None], window: str) -> None:
    options = CircuitBreakerOptions(
        minimum_number_of_calls=2, sliding_window_type=window, wait_duration_in_open_state_seconds=100
    )
    opened, closed = CircuitBreaker("opened", options), CircuitBreaker("closed", options)
    for breaker in (opened, opened, closed):
        with pytest.raises(ConnectionRefusedError):
            Pipeline("p", [breaker]).call(refuse)
    before = opened.snapshot()

    jump()

    after = opened.snapshot()
    assert (before.state, after.state, closed.state) == (State.OPEN, State.OPEN, State.CLOSED)
    assert before.remaining_seconds is not None
    assert after.remaining_seconds is not None
    assert 0 <= before.remaining_seconds - after.remaining_seconds < 50
    assert closed.snapshot().failures == 1
    with pytest.raises(CallNotPermittedError):
        Pipeline("p", [opened]).call(refuse)
    with pytest.raises(ConnectionRefusedError):
        Pipeline("p", [closed]).call(refuse)
    assert closed.state is State.OPEN


def test_a_jump_neither_ends_nor_stretches_a_deadline_or_a_retry(jump: Callable[[], None]) -> None:
    attempts: list[float] = []

    def fail() -> None:
        attempts.append(deadline.remaining_seconds())
        jump()
        raise ConnectionRefusedError

    deadline = Deadline(100)
    retry = Retry("retry", RetryOptions(max_attempts=3, base_seconds=1e-6, cap_seconds=1e-6))
    pipeline = Pipeline("p", [Timeout("timeout", TimeoutOptions(timeout_seconds=100)), retry])

    with deadline_scope(deadline), pytest.raises(ConnectionRefusedError):
        pipeline.call(fail)

    assert len(attempts) == 3
    assert 50 < attempts[2] <= attempts[0] <= 100


def test_a_jump_neither_ages_an_answer_nor_lets_more_calls_in(jump: Callable[[], None]) -> None:
    cache = Cache("cache", CacheOptions(ttl_seconds=100))
    limit = RateLimit("limit", RateLimitOptions(limit=1, period_seconds=1000, burst=1))
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    def answer() -> int:
        return Pipeline("p", [cache]).run(Call(ask).describe(key="k"))

    first = answer()
    Pipeline("p", [limit]).call(ask)

    jump()

    assert (answer(), first) == (1, 1)
    with pytest.raises(RateLimitExceededError):
        Pipeline("p", [limit]).call(ask)


def test_the_date_of_a_retry_after_is_all_that_follows_a_jump(jump: Callable[[], None]) -> None:
    date = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=HOUR / 2), usegmt=True)
    before = retry_after.parse_retry_after(date)

    jump()

    after = retry_after.parse_retry_after(date)
    assert before is not None
    assert after is not None
    assert abs(before - after) > HOUR / 4
