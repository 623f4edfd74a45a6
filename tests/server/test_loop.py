"""The event loop: sockets that are ready, calls from other threads, timers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from app.server.loop import LEFT, READABLE, WRITABLE, EventLoop, Timer
from tests.fakes.clocks import HandClock


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_event_is_told_once_until_it_is_asked_for_again(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    told: list[int] = []
    loop.add(ours.fileno(), READABLE, told.append)
    theirs.sendall(b"x")

    loop.turn(5)
    loop.turn(0)
    loop.rearm(ours.fileno(), READABLE | WRITABLE)
    loop.turn(5)

    assert told == [READABLE, READABLE | WRITABLE]


def test_a_lasting_watch_is_told_every_time(loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    told: list[int] = []
    loop.add(ours.fileno(), READABLE, told.append, once=False)
    theirs.sendall(b"x")

    loop.turn(5)
    loop.turn(5)

    assert told == [READABLE, READABLE]


def test_a_client_that_left_is_noticed_behind_unread_bytes(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    told: list[int] = []
    theirs.sendall(b"not read")
    loop.add(ours.fileno(), LEFT, told.append)

    loop.turn(0)
    theirs.close()
    loop.turn(5)

    assert len(told) == 1
    assert told[0] & LEFT


def test_what_was_removed_is_told_nothing_even_in_the_same_turn(loop: EventLoop) -> None:
    ends = [socket.socketpair() for _ in range(2)]
    told: list[int] = []

    def remove_all(number: int, _events: int) -> None:
        told.append(number)
        for ours, _ in ends:
            loop.remove(ours.fileno())

    for number, (ours, theirs) in enumerate(ends):
        loop.add(ours.fileno(), READABLE, partial(remove_all, number))
        theirs.sendall(b"x")
    loop.turn(5)
    loop.turn(0)

    assert len(told) == 1
    for ours, theirs in ends:
        ours.close()
        theirs.close()


def test_a_call_of_another_thread_wakes_the_loop(loop: EventLoop) -> None:
    called: list[int] = []
    caller = threading.Thread(target=lambda: loop.call_soon(lambda: called.append(threading.get_ident())))

    caller.start()
    loop.turn(60)  # would take a minute if it did not wake
    caller.join()

    assert called == [threading.get_ident()]


def test_calls_come_in_their_order_and_a_call_made_by_one_comes_in_a_later_turn(loop: EventLoop) -> None:
    called: list[str] = []
    loop.call_soon(lambda: loop.call_soon(lambda: called.append("third")))
    loop.call_soon(lambda: called.append("second"))

    loop.turn(0)
    before = list(called)
    loop.turn(5)

    assert (before, called) == (["second"], ["second", "third"])


def test_closing_lets_go_of_every_descriptor() -> None:
    before = set(Path("/proc/self/fd").iterdir())

    EventLoop().close()

    assert set(Path("/proc/self/fd").iterdir()) <= before  # what other tests have left may go meanwhile


def test_a_timer_gives_its_items_in_the_order_of_their_ends_and_once() -> None:
    clock = HandClock()
    timer: Timer[str] = Timer(10, clock.monotonic)
    timer.start("first")
    clock.advance(1)
    timer.start("second")
    clock.advance(9)

    assert (timer.oldest(), list(timer.take_ended())) == ("first", ["first"])
    clock.advance(1)
    assert (list(timer.take_ended()), list(timer.take_ended())) == (["second"], [])


def test_starting_again_begins_anew_and_stopping_forgets() -> None:
    clock = HandClock()
    timer: Timer[str] = Timer(10, clock.monotonic)
    timer.start("renewed")
    timer.start("stopped")
    clock.advance(5)
    timer.start("renewed")
    timer.stop("stopped")
    timer.stop("never started")
    clock.advance(5)

    assert list(timer.take_ended()) == []
    assert timer.next_end() == clock.monotonic() + 5


def test_a_timer_without_items_has_no_end() -> None:
    timer: Timer[str] = Timer(10)

    assert (timer.next_end(), timer.oldest()) == (None, None)
