"""The worker in a real server: overload, probes, stopping, recycling."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from app.ops.probes import PROBE_PATHS
from tests.server.gated import GO
from tests.server.running import ANSWER_SECONDS, PATIENT_SECONDS, Server, running, until

GATED = "tests.server.gated:build_gated"


def gated(
    folder: Path, *, workers: int = 1, graceful_seconds: int = PATIENT_SECONDS, **settings: str
) -> AbstractContextManager[Server]:
    """Run the gated application; requests may wait for a place as long as for their end."""
    named: dict[str, Any] = {f"PHOTO_API_SERVER__{name.upper()}": text for name, text in settings.items()}
    named.setdefault("PHOTO_API_SERVER__REQUEST_DEADLINE_SECONDS", str(min(250, graceful_seconds - 2)))
    return running(folder, workers=workers, application=GATED, graceful_seconds=graceful_seconds, **named)


def open_request(server: Server, path: str, *, method: str = "GET", body: bytes = b"") -> http.client.HTTPConnection:
    """Send a request whose answer is read later."""
    connection = http.client.HTTPConnection("127.0.0.1", server.public, timeout=ANSWER_SECONDS)
    connection.request(method, path, body=body or None, headers={"Host": "localhost"})
    return connection


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Server]:
    """A worker all of whose places are taken, and whose queue is full, until there is a file ``go``.

    Fewer reads wait than are at work: their queue is none that stands, and nobody is dropped from it in the end.
    """
    with gated(tmp_path, threads="4", max_queue="4") as server:
        waiting = [open_request(server, "/gated") for _ in range(7)]
        until(lambda: server.metric("photo_api_in_flight_requests") == 7, "seven requests in flight")
        waiting.append(open_request(server, "/api/v1/photos", method="POST", body=b"x"))  # has room of its own
        until(lambda: server.metric("photo_api_in_flight_requests") == 8, "eight requests in flight")
        yield server
        Path(tmp_path / GO).touch()
        assert [connection.getresponse().status for connection in waiting] == [200] * 8
        for connection in waiting:
            connection.close()


def test_probes_and_metrics_are_answered_by_a_worker_that_is_full(full: Server) -> None:
    statuses = {path: full.get(path).status for path in sorted(PROBE_PATHS)}

    assert set(statuses.values()) == {200}
    until(lambda: full.metric("photo_api_backpressure_queue_size") == 4, "the four that wait to be told")


def test_a_full_worker_refuses_with_a_problem_counts_it_and_says_so_once(full: Server) -> None:
    answers = [full.get("/pid") for _ in range(5)]

    assert {answer.status for answer in answers} == {503}
    assert {answer.json()["type"] for answer in answers} == {"urn:photo-api:problem:overloaded"}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 10 for answer in answers)
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 5
    until(lambda: full.metric("photo_api_backpressure_rejected_total", reason="queue_full") == 5, "five refusals")
    until(lambda: any("refused" in message for message in full.messages()), "a line about them")


def test_a_refused_upload_can_send_its_body_to_the_end_and_read_the_refusal(full: Server) -> None:
    with closing(open_request(full, "/api/v1/photos", method="POST", body=bytes(3_000_000))) as connection:
        response = connection.getresponse()

        assert (response.status, response.getheader("Connection")) == (503, "close")


def answer_all(port: int, count: int, path: str) -> Counter[int]:
    """Send so many requests at once, each on a connection of its own; count the statuses, 0 for no answer."""
    sockets: dict[int, socket.socket] = {}
    poll = select.poll()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.POLLIN)
    for connection in sockets.values():
        connection.sendall(request)
    statuses: Counter[int] = Counter()
    ends = time.monotonic() + ANSWER_SECONDS
    while sockets and time.monotonic() < ends:
        for descriptor, _ in poll.poll(1000):
            connection = sockets.pop(descriptor)
            answer = connection.recv(4096)
            statuses[int(answer.split()[1]) if answer else 0] += 1
            poll.unregister(descriptor)
            connection.close()
    statuses[0] += len(sockets)
    return statuses


@pytest.mark.parametrize("queue", [1000, 100])
def test_five_hundred_requests_at_once_are_all_answered(tmp_path: Path, queue: int) -> None:
    with gated(tmp_path, workers=2, threads="25", max_concurrent="50", max_queue=str(queue)) as server:
        statuses = answer_all(server.public, 500, "/brief")

        assert set(statuses) <= {200, 503, 0}
        assert (statuses[0], sum(statuses.values())) == (0, 500)
        assert statuses[200] >= 50
        until(lambda: server.metric("photo_api_in_flight_requests") == 0, "nothing in flight")


def test_a_stop_finishes_what_is_in_flight_and_what_waits(tmp_path: Path) -> None:
    with gated(tmp_path, threads="2") as server:
        open_requests = [open_request(server, "/gated") for _ in range(4)]
        until(lambda: server.metric("photo_api_in_flight_requests") == 4, "four in flight")

        server.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(server.public), "the listener to close")
        (tmp_path / GO).touch()
        responses = [connection.getresponse() for connection in open_requests]

        assert [(response.status, response.read()) for response in responses] == [(200, b"gone")] * 4
        assert {response.getheader("Connection") for response in responses} == {"close"}
        for connection in open_requests:
            connection.close()
        assert server.exit_code() == 0
    assert "requests were cut at the graceful time-out" not in server.messages()


def test_what_is_stuck_is_cut_at_the_graceful_time_out_and_said(tmp_path: Path) -> None:
    with gated(tmp_path, graceful_seconds=5) as server:
        stuck = open_request(server, "/gated")
        until(lambda: server.metric("photo_api_in_flight_requests") == 1, "one in flight")

        server.process.send_signal(signal.SIGTERM)

        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            stuck.getresponse()
        stuck.close()
        server.exit_code()
    (line,) = [line for line in server.log_lines() if "were cut" in line["message"]]
    assert line["requests"] == 1


def accepts(port: int) -> bool:
    """Tell whether anything accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def test_recycling_loses_no_request_even_with_one_worker(tmp_path: Path) -> None:
    with gated(tmp_path, max_requests="40") as server, ThreadPoolExecutor(4) as clients:
        first = server.pids()
        stop = threading.Event()

        def ask() -> Counter[int]:
            statuses: Counter[int] = Counter()
            while not stop.is_set():
                statuses[server.get("/brief").status] += 1
            return statuses

        asking = [clients.submit(ask) for _ in range(4)]
        until(lambda: not first & server.pids(), "another worker in place of the first")
        stop.set()

        assert {status for future in asking for status in future.result(ANSWER_SECONDS)} == {200}


def test_an_interrupt_from_the_terminal_is_left_to_the_master(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        (worker,) = server.pids()

        os.kill(worker, signal.SIGINT)

        assert server.get("/pid").body == str(worker).encode()
