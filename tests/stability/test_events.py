"""The bus of events: what it keeps, what it drops, and that nobody waits for a listener."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from app.stability.events import Event, EventBus
from tests.house.source import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered(Event):
    """An event that can be told from others."""

    number: int


class Gate:
    """A listener that waits at its first event until it is opened, and remembers everything."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.seen: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.reached.set()
        assert self.open.wait(60)
        self.seen.append(event)

    @property
    def numbers(self) -> list[int]:
        return numbers(self.seen)


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events if isinstance(event, Numbered)]


def event(number: int) -> Numbered:
    return Numbered(name="storage", number=number)


@pytest.fixture
def new_bus() -> Iterator[Callable[..., EventBus]]:
    """Make buses that are closed after the test."""
    made: list[EventBus] = []

    def make(capacity: int = 10_000) -> EventBus:
        made.append(EventBus(capacity))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


@pytest.fixture
def bus(new_bus: Callable[..., EventBus]) -> EventBus:
    return new_bus()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_an_event_cannot_be_changed_and_knows_how_much_it_matters() -> None:
    told = event(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        told.number = 2  # type: ignore[misc]  # what is tested

    assert told.level == logging.INFO
    assert told == event(1)


def test_events_arrive_in_the_order_in_which_they_were_published(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)

    for number in range(1000):
        bus.publish(event(number))

    assert bus.flush()
    assert numbers(seen) == list(range(1000))
    assert bus.dropped == 0


def test_every_listener_hears_every_event_after_it_has_come(bus: EventBus) -> None:
    first: list[Event] = []
    second: list[Event] = []

    bus.subscribe(first.append)
    bus.publish(event(1))
    assert bus.flush()
    bus.subscribe(second.append)
    bus.publish(event(2))

    assert bus.flush()
    assert (numbers(first), numbers(second)) == ([1, 2], [2])


def test_without_a_listener_nothing_waits_and_no_thread_is_started(bus: EventBus) -> None:
    before = set(threading.enumerate())

    bus.publish(event(1))
    seen: list[Event] = []
    bus.subscribe(seen.append)

    assert bus.flush()
    assert seen == []
    assert "stability-events" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_a_listener_is_called_in_a_thread_that_does_not_keep_the_program_alive(bus: EventBus) -> None:
    threads: list[threading.Thread] = []
    bus.subscribe(lambda _event: threads.append(threading.current_thread()))

    bus.publish(event(1))
    bus.publish(event(2))

    assert bus.flush()
    assert threads[0] is threads[1]
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    assert threads[0].name == "stability-events"


def test_a_listener_that_never_returns_delays_no_call(bus: EventBus, gate: Gate) -> None:
    bus.subscribe(gate)

    bus.publish(event(0))
    assert gate.reached.wait(60)
    for number in range(1, 1000):
        bus.publish(event(number))

    assert gate.seen == []  # all were published while the listener still stood at the first
    gate.open.set()
    assert bus.flush()
    assert gate.numbers == list(range(1000))


def test_what_comes_while_the_queue_is_full_is_dropped_and_counted(
    new_bus: Callable[..., EventBus], gate: Gate
) -> None:
    bus = new_bus(capacity=3)
    bus.subscribe(gate)

    bus.publish(event(0))
    assert gate.reached.wait(60)
    for number in range(1, 10):
        bus.publish(event(number))
    dropped = bus.dropped
    gate.open.set()

    assert bus.flush()
    assert gate.numbers == [0, 1, 2, 3]
    assert dropped == 6


def test_ten_thousand_events_can_wait_unless_told_otherwise(gate: Gate) -> None:
    bus = EventBus()
    bus.subscribe(gate)

    bus.publish(event(0))
    assert gate.reached.wait(60)
    for number in range(1, 10_002):
        bus.publish(event(number))
    dropped = bus.dropped
    gate.open.set()
    bus.close(60)

    assert gate.numbers == list(range(10_001))
    assert dropped == 1


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_listener_that_raises_is_logged_and_keeps_nobody_from_hearing(
    bus: EventBus, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen: list[Event] = []

    def broken(_event: Event) -> None:
        raise error

    bus.subscribe(broken)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.ERROR):
        bus.publish(event(1))
        bus.publish(event(2))
        assert bus.flush()

    assert numbers(seen) == [1, 2]
    assert [(r.getMessage(), vars(r)["event"]) for r in caplog.records] == [("a listener raised", "Numbered")] * 2


def test_a_lock_may_be_held_while_publishing_that_the_listener_wants_too(bus: EventBus) -> None:
    lock = threading.Lock()
    seen: list[Event] = []

    def listen(told: Event) -> None:
        with lock:
            seen.append(told)

    bus.subscribe(listen)
    with lock:
        bus.publish(event(1))
        bus.publish(event(2))
        heard_under_the_lock = list(seen)

    assert bus.flush()
    assert heard_under_the_lock == []
    assert numbers(seen) == [1, 2]


def test_the_events_of_each_of_many_threads_keep_their_order_and_none_is_lost(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)
    together = threading.Barrier(4)

    def publish(first: int) -> None:
        together.wait()
        for number in range(first, first + 500):
            bus.publish(event(number))

    threads = [threading.Thread(target=publish, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert bus.flush()
    assert len(seen) == 2000
    for first in (0, 1000, 2000, 3000):
        assert [n for n in numbers(seen) if first <= n < first + 1000] == list(range(first, first + 500))


def test_waiting_for_a_listener_that_does_not_return_ends_with_no(bus: EventBus, gate: Gate) -> None:
    bus.subscribe(gate)

    bus.publish(event(1))

    assert bus.flush(timeout_seconds=0) is False


def test_a_listener_cannot_wait_for_itself(bus: EventBus) -> None:
    answers: list[bool] = []
    bus.subscribe(lambda _event: answers.append(bus.flush(timeout_seconds=60)))

    bus.publish(event(1))

    assert bus.flush()
    assert answers == [False]


def test_a_listener_can_publish(bus: EventBus) -> None:
    seen: list[Event] = []

    def listen(told: Event) -> None:
        seen.append(told)
        if len(seen) < 3:
            bus.publish(event(len(seen)))

    bus.subscribe(listen)
    bus.publish(event(0))
    while len(seen) < 3:
        assert bus.flush()

    assert numbers(seen) == [0, 1, 2]


def test_closing_hands_on_what_waits_and_ends_the_thread(bus: EventBus, gate: Gate) -> None:
    threads: list[threading.Thread] = []
    bus.subscribe(gate)
    bus.subscribe(lambda _event: threads.append(threading.current_thread()))

    for number in range(5):
        bus.publish(event(number))
    gate.open.set()
    bus.close(60)

    assert gate.numbers == list(range(5))
    assert not threads[0].is_alive()
    assert bus.flush()


def test_a_closed_bus_starts_again_with_the_next_event(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)

    bus.publish(event(1))
    bus.close()
    bus.close()
    bus.publish(event(2))

    assert bus.flush()
    assert numbers(seen) == [1, 2]


def test_closing_a_bus_that_never_told_anything_does_nothing() -> None:
    bus = EventBus()

    bus.close()

    assert bus.flush()


def test_events_after_an_end_that_takes_long_come_after_those_before_it(bus: EventBus, gate: Gate) -> None:
    bus.subscribe(gate)

    bus.publish(event(1))
    assert gate.reached.wait(60)
    bus.publish(event(2))
    bus.close(timeout_seconds=0)
    waits_for_the_end = not bus.flush(timeout_seconds=0)
    bus.publish(event(3))
    gate.open.set()

    assert bus.flush()
    assert waits_for_the_end
    assert gate.numbers == [1, 2, 3]


def test_a_listener_can_close_the_bus(bus: EventBus) -> None:
    seen: list[Event] = []

    def listen(told: Event) -> None:
        seen.append(told)
        bus.close(60)

    bus.subscribe(listen)
    bus.publish(event(1))
    assert bus.flush()
    bus.publish(event(2))

    assert bus.flush()
    assert numbers(seen) == [1, 2]


def test_no_event_is_lost_when_publishing_and_closing_meet(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)
    together = threading.Barrier(2)

    def close() -> None:
        together.wait()
        for _ in range(200):
            bus.close()

    closing = threading.Thread(target=close)
    closing.start()
    together.wait()
    for number in range(2000):
        bus.publish(event(number))
    closing.join()

    assert bus.flush()
    assert numbers(seen) == list(range(2000))


def test_events_wait_while_no_thread_can_be_had(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)

    def refuse(_thread: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        bus.publish(event(1))
        is_through = bus.flush(timeout_seconds=0)
    bus.publish(event(2))

    assert bus.flush()
    assert is_through is False
    assert numbers(seen) == [1, 2]


def test_closing_hands_on_what_has_waited_for_a_thread(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)

    def refuse(_thread: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        bus.publish(event(1))
    bus.close(60)

    assert numbers(seen) == [1]


def test_a_signal_that_publishes_does_not_wait_for_the_thread_that_it_stopped(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append)
    line = bus._line()
    before = signal.signal(signal.SIGUSR1, lambda *_: bus.publish(event(1)))

    try:
        with line.lock:  # where publish() may stand when a signal comes
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert bus.flush()
    assert numbers(seen) == [1]


def test_two_threads_that_come_first_share_one_line(bus: EventBus) -> None:
    together = threading.Barrier(2)
    lines = []

    def come() -> None:
        together.wait()
        lines.append(bus._line())

    other = threading.Thread(target=come)
    other.start()
    come()
    other.join()

    assert lines[0] is lines[1]


def test_a_child_does_not_keep_what_its_parent_had_queued(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = bus._line()

    with monkeypatch.context() as context:
        context.setattr(os, "getpid", lambda: -1)
        childs = bus._line()
        kept = list(bus._lines.values())

    assert childs is not parents
    assert kept == [childs]


FORKS = """
import os, threading
from app.stability.events import Event, EventBus

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

bus = EventBus(capacity=3)
opened, reached = threading.Event(), threading.Event()
parent = os.getpid()

def listen(event):
    if os.getpid() == parent:
        reached.set()
        opened.wait()
    tell("parent" if os.getpid() == parent else "child", event.name)

bus.subscribe(listen)
bus.publish(Event(name="first"))
reached.wait()
for name in ("second", "third", "fourth", "dropped"):
    bus.publish(Event(name=name))

held = threading.Event()
def hold():
    with bus._line().lock:  # as a thread that publishes in the moment of the fork
        held.set()
        opened.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()

child = os.fork()
if child == 0:
    bus.publish(Event(name="of the child"))
    tell("child is through", bus.flush(), bus.dropped)
    os._exit(0)
tell("child ended with", os.waitpid(child, 0)[1])
opened.set()
holder.join()
tell("parent is through", bus.flush(), bus.dropped)
"""


def test_a_forked_child_tells_its_own_events_and_leaves_the_parents_to_the_parent() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, "-c", FORKS], env=environ, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines() == [
        "child of the child",
        "child is through True 0",
        "child ended with 0",
        "parent first",
        "parent second",
        "parent third",
        "parent fourth",
        "parent is through True 1",
    ]
