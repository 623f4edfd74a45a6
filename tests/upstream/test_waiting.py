"""What bounds the wait for a server, on real sockets."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from app.errors import UpstreamTimeoutError
from app.stability import Deadline, deadline_scope
from app.upstream.waiting import BudgetedResponse, BudgetedSocketReader, WaitBudget
from tests.fakes.clocks import HandClock


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_wait_takes_its_time_off_the_budget() -> None:
    clock = HandClock()
    budget = WaitBudget(5, clock)

    with budget.wait(cap_seconds=2) as seconds:
        clock.advance(1.5)

    assert (seconds, budget.left_seconds()) == (2, 3.5)


def test_a_budget_that_is_used_up_grants_no_wait() -> None:
    clock = HandClock()
    budget = WaitBudget(5, clock)
    with budget.wait():
        clock.advance(5)

    with pytest.raises(UpstreamTimeoutError):
        budget.left_seconds()


def test_after_the_deadline_there_is_no_budget() -> None:
    with deadline_scope(Deadline(-1)), pytest.raises(UpstreamTimeoutError):
        WaitBudget(5)


def test_silence_ends_with_the_budget(pair: tuple[socket.socket, socket.socket]) -> None:
    reader = BudgetedSocketReader(pair[0], WaitBudget(0.05))

    with pytest.raises(UpstreamTimeoutError):
        reader.read(1)

    reader.close()


def test_the_end_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    reader = BudgetedSocketReader(pair[0], WaitBudget(5))
    pair[1].sendall(b"a")

    first = (reader.read(10), reader.has_ended)
    pair[1].close()
    last = (reader.read(10), reader.has_ended)

    assert (first, last) == ((b"a", False), (b"", True))
    reader.close()


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Auth-Token: abcdef\r\n\r\n"


def test_a_head_is_believed_only_when_it_is_whole() -> None:
    believed = []

    for length in range(1, len(WHOLE) + 1):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(WHOLE[:length])
            theirs.shutdown(socket.SHUT_WR)
            response = BudgetedResponse(ours, method="GET", budget=WaitBudget(5))
            try:
                response.begin()
                believed.append(length)
            except http.client.HTTPException:
                pass
            finally:
                response.close()

    assert believed == [len(WHOLE)]


@pytest.mark.parametrize("value", ["-1", "1, 1", "+1", "1 1", "0x1", ""])
def test_a_length_that_is_no_number_is_no_answer(pair: tuple[socket.socket, socket.socket], value: str) -> None:
    pair[1].sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\na".encode())
    response = BudgetedResponse(pair[0], method="GET", budget=WaitBudget(5))

    with pytest.raises(http.client.HTTPException):
        response.begin()

    response.close()
