"""The pool: exact figures, waits that end with their request, room for the next at once; on each kind of database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.util import queue

from app.db.pool import PoolFigures, WatchedPool
from app.stability import Deadline, deadline_scope
from tests.servers.product import until


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, int, int]] = []
        self.waits: list[float] = []
        self.timeouts = 0

    def pool(self, active: int, idle: int, waiting: int) -> None:
        self.figures.append((active, idle, waiting))

    def pool_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def pool_timeout(self) -> None:
        self.timeouts += 1


class Pooled:
    """An engine with a pool of at most three connections, and what its observer has heard."""

    def __init__(self, url: str, *, timeout_seconds: float = 30.0) -> None:
        self.heard = Heard()
        self.engine: Engine = create_engine(
            url, poolclass=WatchedPool, pool_size=2, max_overflow=1, pool_timeout=timeout_seconds
        )
        self.pool.observer = self.heard

    @property
    def pool(self) -> WatchedPool:
        assert isinstance(self.engine.pool, WatchedPool)
        return self.engine.pool

    def ask(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    def hold(self, count: int) -> ExitStack:
        held = ExitStack()
        for _ in range(count):
            held.enter_context(self.engine.connect())
        return held


@pytest.fixture
def open_pool(url: str) -> Iterator[Callable[..., Pooled]]:
    with ExitStack() as closing:

        def make(**settings: float) -> Pooled:
            made = Pooled(url, **settings)
            closing.callback(made.engine.dispose)
            return made

        yield make


OpenPool = Callable[..., Pooled]


def test_figures_say_what_is_in_use_what_is_free_and_how_much_there_may_be(open_pool: OpenPool) -> None:
    pooled = open_pool()
    with pooled.hold(3):
        full = pooled.pool.figures()

    assert full == PoolFigures(active=3, idle=0, waiting=0, max_connections=3)
    assert full.is_full
    assert pooled.pool.figures() == PoolFigures(active=0, idle=2, waiting=0, max_connections=3)
    assert pooled.heard.figures[-1] == (0, 2, 0)
    assert pooled.heard.waits == []


def test_who_waits_is_counted_and_gets_the_connection_that_comes_free(open_pool: OpenPool) -> None:
    pooled = open_pool()
    with ThreadPoolExecutor(4) as threads:
        with pooled.hold(3):
            asked = [threads.submit(pooled.ask) for _ in range(4)]
            until(lambda: pooled.pool.figures().waiting == 4, "four to wait")
        answers = [one.result(10) for one in asked]

    assert answers == [1] * 4
    assert pooled.pool.figures() == PoolFigures(active=0, idle=2, waiting=0, max_connections=3)
    assert pooled.heard.figures[-1] == (0, 2, 0)
    assert len(pooled.heard.waits) == 4
    assert pooled.heard.timeouts == 0


def test_a_wait_in_vain_ends_in_its_time_and_the_next_one_after_has_none(open_pool: OpenPool) -> None:
    pooled = open_pool(timeout_seconds=0.2)
    with pooled.hold(3):
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            pooled.ask()
        waited = time.monotonic() - began

    assert 0.2 <= waited < 15
    assert pooled.pool.figures().timeouts == pooled.heard.timeouts == 1
    (heard,) = pooled.heard.waits
    assert 0.2 <= heard <= waited
    assert pooled.ask() == 1
    assert pooled.pool.figures().waiting == 0


def test_a_wait_ends_with_its_request(open_pool: OpenPool) -> None:
    pooled = open_pool(timeout_seconds=30)
    with pooled.hold(3), deadline_scope(Deadline(0.1)):
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            pooled.ask()

    assert time.monotonic() - began < 10


def test_of_many_that_come_at_once_nobody_is_counted_twice_or_for_ever(open_pool: OpenPool) -> None:
    pooled = open_pool()
    start = threading.Barrier(20)

    def ask_often(_: int) -> None:
        start.wait(10)
        for _ in range(20):
            pooled.ask()

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(ask_often, range(20)))

    assert all(0 <= active <= 3 and 0 <= idle <= 2 and waiting >= 0 for active, idle, waiting in pooled.heard.figures)
    assert pooled.heard.figures[-1] == (0, 2, 0)
    assert pooled.heard.timeouts == 0


def test_a_connection_that_could_not_be_opened_leaves_its_place(open_pool: OpenPool) -> None:
    pooled = open_pool(timeout_seconds=0.2)
    broken = threading.Event()
    broken.set()

    def connect(*_connecting: object) -> None:
        if broken.is_set():
            raise OperationalError("connect", {}, Exception())

    event.listen(pooled.engine, "do_connect", connect)
    for _ in range(5):
        with pytest.raises(OperationalError):
            pooled.ask()
    while_broken = pooled.pool.figures()

    broken.clear()

    assert while_broken == PoolFigures(active=0, idle=0, waiting=0, max_connections=3)
    assert pooled.ask() == 1


def test_a_place_is_taken_while_its_connection_is_being_made(open_pool: OpenPool) -> None:
    pooled = open_pool()
    making, go_on = threading.Event(), threading.Event()

    def connect(*_connecting: object) -> None:
        making.set()
        go_on.wait(10)

    event.listen(pooled.engine, "do_connect", connect)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(pooled.ask)
        assert making.wait(10)
        meanwhile = pooled.pool.figures()
        go_on.set()

        assert asked.result(10) == 1
    assert (meanwhile.active, pooled.heard.figures[0]) == (1, (1, 0, 0))


def test_a_waiting_thread_takes_the_place_of_one_that_could_not_be_opened(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = open_pool()
    opening, fail = threading.Event(), threading.Event()
    first = threading.Lock()

    def connect(*_connecting: object) -> None:
        if held_count[0] == 2 and first.acquire(blocking=False):
            opening.set()
            fail.wait(10)
            raise OperationalError("connect", {}, Exception())

    held_count = [0]
    event.listen(pooled.engine, "do_connect", connect)
    with ThreadPoolExecutor(2) as threads, pooled.hold(2):
        held_count[0] = 2
        doomed = threads.submit(pooled.ask)
        assert opening.wait(10)

        def wait_in_vain(*, block: bool, timeout: float = 0.0) -> object:
            if not block:
                return get(block=False)
            fail.set()
            doomed.exception(timeout)
            raise queue.Empty  # its time is over as the other one has just failed

        get = pooled.pool._pool.get
        with monkeypatch.context() as patch:
            patch.setattr(pooled.pool._pool, "get", wait_in_vain)

            assert threads.submit(pooled.ask).result(20) == 1
        assert isinstance(doomed.exception(20), OperationalError)
        assert (len(pooled.heard.waits), pooled.heard.timeouts) == (1, 0)


def test_a_pool_that_is_made_anew_keeps_its_observer_and_its_time(open_pool: OpenPool) -> None:
    pooled = open_pool(timeout_seconds=0.1)
    with deadline_scope(Deadline(0.01)):
        pooled.engine.dispose()

    with pooled.hold(3), pytest.raises(PoolTimeoutError):
        pooled.ask()

    assert pooled.heard.timeouts == 1
    assert pooled.heard.waits[-1] >= 0.1
