"""The front of a worker, turn by turn: what gets a thread, waits, is refused, is cut off; and what is counted."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.ops.admission import Reason
from app.server.front import AHEAD_BYTES
from app.server.loop import Timer
from tests.fakes.clocks import HandClock
from tests.server.front_stage import GET, LARGE, LARGE_BYTES, PROBE, SLOW, Stage, post, status
from tests.servers.base import backlog


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def test_requests_of_one_connection_are_answered_in_their_order(stage: Stage) -> None:
    client = stage.client(GET + PROBE + GET)

    answers = b""
    while answers.count(b"200 OK") < 3:
        answers += stage.answer(client)

    assert answers.index(b"hello") < answers.index(b"up") < answers.rindex(b"hello")
    assert stage.served == ["/quick", "/quick"]


@pytest.fixture
def answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths that were asked for as probes are: those of probes, and of plain requests when their turn comes."""
    paths: list[bytes] = []
    answer_probe = stage.front._answer_probe

    def count(path: bytes, request_id: str, is_last: bool) -> bytes | None:
        paths.append(path)
        return answer_probe(path, request_id, is_last)

    monkeypatch.setattr(stage.front, "_answer_probe", count)
    return paths


def test_of_probes_that_are_sent_ahead_one_turn_answers_few(stage: Stage, answered: list[bytes]) -> None:
    client = stage.client(100 * PROBE)
    stage.until(lambda: answered)
    in_one_turn = len(answered)
    received = b""
    while received.count(b"\r\n\r\nup") < 100:
        received += stage.answer(client)

    assert in_one_turn <= 2
    assert len(answered) == 100


def test_what_was_sent_behind_probes_is_forgotten_with_its_connection(stage: Stage, answered: list[bytes]) -> None:
    stage.client(2 * PROBE + GET)

    stage.until(lambda: len(answered) == 2)
    stage.front.close_idle()
    stage.front.turn(0)

    assert stage.front.connections == 0
    assert (answered, stage.served, stage.counts.most) == ([b"/health"] * 2, [], 0)


def test_a_head_that_comes_byte_by_byte_needs_no_thread_until_it_is_there(stage: Stage) -> None:
    client = stage.client()

    for byte in GET[:-1]:
        client.sendall(bytes([byte]))
        stage.front.turn(0.005)
    begun = list(stage.served)
    stage.until(lambda: stage.counts.in_flight == 1)
    client.sendall(GET[-1:])

    assert (begun, status(stage.answer(client))) == ([], 200)


def test_a_probe_is_answered_while_every_place_is_taken_and_the_queue_is_full(stage: Stage) -> None:
    busy = [stage.client(SLOW) for _ in range(4)]
    stage.until(lambda: stage.front.in_flight == 4)

    answer = stage.answer(stage.client(PROBE))

    assert answer.endswith(b"up")
    assert stage.counts.in_flight == 4
    stage.gate.set()
    assert [status(stage.answer(client)) for client in busy] == [200] * 4


def test_a_head_request_gets_no_body_be_it_a_probe_or_a_refusal(stage: Stage) -> None:
    for _ in range(4):
        stage.client(SLOW)
    stage.until(lambda: stage.front.in_flight == 4)
    probe, refused = stage.client(PROBE.replace(b"GET", b"HEAD")), stage.client(GET.replace(b"GET", b"HEAD"))
    received = {probe: b"", refused: b""}

    def has_come() -> bool:
        for client in received:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                received[client] += client.recv(65_536)
        return all(b"\r\n\r\n" in answer for answer in received.values())

    stage.until(has_come)

    assert [status(answer) for answer in received.values()] == [200, 503]
    assert all(answer.endswith(b"\r\n\r\n") for answer in received.values())


def test_what_has_no_place_waits_and_what_has_no_room_is_refused_with_a_problem(stage: Stage) -> None:
    waiting = [stage.client(SLOW) for _ in range(4)]
    stage.until(lambda: stage.front.in_flight == 4)

    refused = stage.client(GET[:-2] + b"X-Request-Id: mine-1\r\n\r\n")
    answer = stage.answer(refused)

    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert status(answer) == 503
    assert (document["type"], document["request_id"]) == ("urn:photo-api:problem:overloaded", "mine-1")
    assert f"Retry-After: {document['retry_after_seconds']}".encode() in head
    assert b"Connection: keep-alive" in head
    assert stage.counts.reasons == [Reason.QUEUE_FULL]
    assert max(stage.counts.waiting) == 2
    stage.gate.set()
    assert [status(stage.answer(client)) for client in waiting] == [200] * 4
    refused.sendall(GET)  # the connection goes on: a new one would cost more than the refusal
    assert status(stage.answer(refused)) == 200


@pytest.mark.parametrize(
    "sent",
    [
        GET + GET,
        GET[:-2] + b"Connection: close\r\n\r\n",
        GET[:-2] + b"Content-Length: 0\r\n\r\n",
        GET.replace(b"1.1", b"1.0"),
        post(3, b"abc"),
    ],
    ids=["more has come", "close", "a body", "1.0", "upload"],
)
def test_a_refusal_ends_the_connection_if_anything_may_follow_the_head(stage: Stage, sent: bytes) -> None:
    for _ in range(4):
        stage.client(SLOW)
    stage.until(lambda: stage.front.in_flight == 4)

    client = stage.client(sent)
    answer = stage.answer(client)

    assert status(answer) == 503
    assert b"Connection: close" in answer
    stage.until(lambda: stage.is_closed(client))
    assert stage.counts.reasons == [Reason.QUEUE_FULL]


def test_a_refusal_of_a_server_that_ends_ends_the_connection(stage: Stage) -> None:
    for _ in range(4):
        stage.client(SLOW)
    stage.until(lambda: stage.front.in_flight == 4)
    stage.is_last = True

    client = stage.client(GET)

    assert b"Connection: close" in stage.answer(client)
    stage.until(lambda: stage.is_closed(client))


def test_who_is_refused_after_having_waited_keeps_the_connection() -> None:
    stage = Stage(queue=10)
    reads = [stage.client(SLOW) for _ in range(12)]
    stage.until(lambda: stage.front.in_flight == 12)
    stage.client(post(3, b"abc"))  # takes the room that uploads are guaranteed from the youngest read

    stage.until(lambda: stage.counts.reasons)
    stage.gate.set()
    answers = {client: stage.answer(client) for client in reads}
    refused = next(client for client, answer in answers.items() if status(answer) == 503)
    refused.sendall(GET)

    assert sorted(map(status, answers.values())) == [200] * 11 + [503]
    assert status(stage.answer(refused)) == 200
    stage.close()


def test_an_upload_without_room_is_refused_before_its_body_is_read_and_the_body_is_dropped(stage: Stage) -> None:
    for _ in range(4):
        stage.client(SLOW)
    stage.until(lambda: stage.front.in_flight == 4)
    client = stage.client(post(1_000_000, bytes(50_000)))

    answer = stage.answer(client)
    client.setblocking(True)
    sending = threading.Thread(target=client.sendall, args=(bytes(950_000),))
    sending.start()
    stage.until(lambda: not sending.is_alive())
    client.close()

    assert status(answer) == 503
    stage.until(lambda: stage.front.connections == 4)


def test_a_small_body_gets_a_thread_only_when_it_is_whole(stage: Stage) -> None:
    client = stage.client(post(100_000, bytes(99_999)))
    stage.until(lambda: stage.front.in_flight == 1)
    for _ in range(5):
        stage.front.turn(0.01)
    begun = list(stage.served)

    client.sendall(b"x")

    assert (begun, stage.answer(client)[-11:]) == ([], b"read 100000")


def test_a_large_body_of_a_quick_client_gets_a_thread_with_its_beginning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.kept.QUICK_SECONDS", 600.0)
    size = AHEAD_BYTES * 3
    client = stage.client(post(size, bytes(AHEAD_BYTES)))
    stage.until(lambda: stage.served)

    client.sendall(bytes(size - AHEAD_BYTES))

    assert stage.answer(client).endswith(b"read %d" % size)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client whose body does not come at once count as slow."""
    monkeypatch.setattr("app.server.kept.QUICK_SECONDS", 0.0)


@pytest.mark.usefixtures("slow")
def test_a_large_body_of_a_slow_client_gets_a_thread_only_when_it_is_whole(stage: Stage) -> None:
    size = AHEAD_BYTES * 3
    client = stage.client(post(size, os.urandom(AHEAD_BYTES)))
    stage.until(lambda: stage.front.in_flight == 1)
    client.sendall(os.urandom(size - AHEAD_BYTES - 1))
    for _ in range(20):
        stage.front.turn(0.01)
    begun = list(stage.served)

    client.sendall(b"x" + GET)  # and the next request at once

    answers = stage.answer(client)
    assert (begun, b"read %d" % size in answers) == ([], True)
    assert b"hello" in answers or stage.answer(client).endswith(b"hello")


@pytest.mark.usefixtures("slow")
def test_a_kept_body_that_nobody_reads_is_parted_from_the_next_request(stage: Stage) -> None:
    size = AHEAD_BYTES * 2
    client = stage.client(post(size, bytes(AHEAD_BYTES), path=b"/quick"))
    stage.until(lambda: stage.front.in_flight == 1)

    client.sendall(bytes(size - AHEAD_BYTES) + GET)

    answers = stage.answer(client)
    while answers.count(b"hello") < 2:
        answers += stage.answer(client)
    assert stage.served == ["/quick", "/quick"]


@pytest.mark.usefixtures("slow")
def test_a_slow_client_that_leaves_takes_its_kept_bytes_with_it(tmp_path: Path) -> None:
    stage = Stage(spool=tmp_path)
    client = stage.client(post(AHEAD_BYTES * 3, bytes(AHEAD_BYTES * 2)))
    stage.until(lambda: _files_of(tmp_path))

    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

    stage.until(lambda: stage.front.connections == 0)
    assert not _files_of(tmp_path)
    stage.close()


def _files_of(folder: Path) -> list[str]:
    """Return the open files of this process in a folder, with names or without."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return [target for target in found if target.startswith(str(folder))]


@pytest.mark.usefixtures("slow")
def test_a_slow_body_without_room_on_the_disk_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_full(**_: Any) -> Any:
        return Path("/dev/full").open("r+b", buffering=0)

    monkeypatch.setattr("app.server.kept.tempfile.TemporaryFile", open_full)
    client = stage.client(post(AHEAD_BYTES * 3, bytes(AHEAD_BYTES)))
    stage.until(lambda: stage.front.in_flight == 1)

    client.sendall(bytes(AHEAD_BYTES))

    assert status(stage.answer(client)) == 503
    assert stage.served == []


@pytest.mark.usefixtures("slow")
def test_without_a_folder_for_it_a_thread_waits_for_a_slow_body(tmp_path: Path) -> None:
    stage = Stage(spool=tmp_path / "missing")
    client = stage.client(post(AHEAD_BYTES * 3, bytes(AHEAD_BYTES)))
    stage.until(lambda: stage.served)

    client.sendall(bytes(AHEAD_BYTES * 2))

    assert stage.answer(client).endswith(b"read %d" % (AHEAD_BYTES * 3))
    stage.close()


def test_a_body_beyond_the_largest_is_left_to_the_application_by_its_announced_length(stage: Stage) -> None:
    stage.client(post(AHEAD_BYTES * 20, b"the beginning", path=b"/quick"))

    stage.until(lambda: stage.served == ["/quick"])


@pytest.mark.usefixtures("slow")
def test_a_body_that_is_too_long_to_be_kept_is_left_to_the_application(stage: Stage) -> None:
    stage.client(post(AHEAD_BYTES * 20, bytes(AHEAD_BYTES), path=b"/quick"))

    stage.until(lambda: stage.served == ["/quick"])


def test_a_chunked_body_gets_a_thread_when_it_has_ended(stage: Stage) -> None:
    head = b"POST /api/v1/photos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = stage.client(head + b"5\r\nhello\r\n")
    stage.until(lambda: stage.front.in_flight == 1)
    for _ in range(5):
        stage.front.turn(0.01)
    begun = list(stage.served)

    client.sendall(b"0\r\n\r\n")

    assert (begun, stage.answer(client)[-6:]) == ([], b"read 5")


def test_a_client_that_ends_its_body_early_is_told_so_by_the_application(stage: Stage) -> None:
    client = stage.client(post(1000, b"half"))
    stage.until(lambda: stage.front.in_flight == 1)

    client.shutdown(socket.SHUT_WR)

    assert stage.answer(client).endswith(b"read 4")


def test_a_client_that_leaves_while_it_waits_is_never_served(stage: Stage) -> None:
    for _ in range(2):
        stage.client(SLOW)
    stage.until(lambda: stage.front.in_flight == 2)
    leaving = stage.client(GET)
    stage.until(lambda: stage.front.in_flight == 3)

    leaving.close()

    stage.until(lambda: stage.front.in_flight == 2)
    stage.gate.set()
    stage.until(lambda: stage.front.in_flight == 0)
    assert stage.served == ["/slow", "/slow"]
    assert stage.counts.reasons == [Reason.CLIENT_LEFT]


def test_slow_readers_hold_no_place() -> None:
    stage = Stage(queue=10)
    readers = [stage.client(LARGE) for _ in range(6)]
    stage.until(lambda: stage.served.count("/large") == 6)

    assert status(stage.answer(stage.client(GET))) == 200

    stage.until(lambda: stage.counts.in_flight == 6)
    received = [0] * len(readers)

    def read_on() -> bool:
        for index, reader in enumerate(readers):
            reader.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                received[index] += len(reader.recv(1 << 20))
        return min(received) > LARGE_BYTES

    stage.until(read_on)
    stage.until(lambda: stage.counts.in_flight == 0)
    stage.close()


def test_of_more_slow_readers_than_may_wait_the_slowest_is_given_up() -> None:
    stage = Stage(queue=10, parked=2)
    first = stage.client(LARGE)
    stage.until(lambda: stage.front._parked == 1)
    others = [stage.client(LARGE) for _ in range(2)]

    stage.until(lambda: stage.served.count("/large") == 3 and stage.front.connections == 2)

    assert (stage.front._parked, stage.counts.in_flight) == (2, 2)
    stage.until(lambda: stage.is_closed(first))
    assert not any(stage.is_closed(other) for other in others)
    stage.close()
    assert stage.front._parked == 0


def test_a_reader_that_stops_is_cut_off_and_its_answer_closed() -> None:
    stage = Stage(silence=0.2)
    stage.client(LARGE)
    stage.until(lambda: stage.front.in_flight == 1)

    stage.until(lambda: stage.front.connections == 0)

    assert stage.counts.in_flight == 0
    stage.close()


@pytest.mark.parametrize(
    "begun", [GET[:20], post(1000, b"half"), b"GET / HTTP/1.1\r\nX: "], ids=["head", "body", "header"]
)
def test_a_request_that_does_not_come_to_its_end_is_408(begun: bytes) -> None:
    stage = Stage(silence=0.1)

    answer = stage.answer(stage.client(begun))

    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["retryable"] is True
    assert (stage.served, stage.counts.in_flight) == ([], 0)
    stage.close()


def test_a_body_that_drips_is_408_and_one_that_moves_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    monkeypatch.setattr("app.server.front._now", clock.monotonic)
    monkeypatch.setattr("app.server.front.Timer", partial(Timer, now=clock.monotonic))
    stage = Stage(silence=20)
    dripping, moving = stage.client(post(20_000)), stage.client(post(20_000))
    stage.until(lambda: stage.front.in_flight == 2)

    for piece in range(1, 21):
        moving.sendall(bytes(1000))
        stage.until(partial(_has_come, stage, moving, 1000 * piece))
        if piece <= 4:
            dripping.sendall(b"x")
            stage.until(partial(_has_come, stage, dripping, piece))
        clock.advance(5)
        if piece == 4:
            assert status(stage.answer(dripping)) == 408

    assert status(stage.answer(moving)) == 200
    stage.close()


def _has_come(stage: Stage, client: socket.socket, count: int) -> bool:
    """Tell whether so many bytes of a client's body are with the server, or all of them with the application."""
    (connection,) = [one for one in stage.front._connections if one.peer == client.getsockname()]
    return bool(stage.served) or (
        connection.head is not None and connection.arrived_bytes - connection.head.length >= count
    )


def test_a_head_without_end_is_431(stage: Stage) -> None:
    client = stage.client(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 11_000)

    assert status(stage.answer(client)) == 431
    assert stage.counts.in_flight == 0


def test_an_unreadable_request_is_400_by_the_parser(stage: Stage) -> None:
    assert status(stage.answer(stage.client(b"GET / HTTP/1.1\nHost: a\n\n"))) == 400


def test_idle_connections_make_room_for_new_ones() -> None:
    stage = Stage(connections=3)
    idle = [stage.client(GET) for _ in range(3)]
    for client in idle:
        stage.answer(client)

    answer = stage.answer(stage.client(GET))

    assert status(answer) == 200
    assert sum(stage.is_closed(client) for client in idle) == 2  # one for the client, one for the next
    stage.close()


def test_without_an_idle_connection_new_ones_wait_in_the_kernel() -> None:
    stage = Stage(places=1, connections=2)
    busy = [stage.client(SLOW) for _ in range(2)]
    stage.until(lambda: stage.front.in_flight == 2)
    late = stage.client(GET)
    for _ in range(5):
        stage.front.turn(0.01)
    connections = stage.front.connections

    stage.gate.set()

    assert connections == 2
    assert [status(stage.answer(client)) for client in (*busy, late)] == [200] * 3
    stage.close()


def test_stopping_takes_what_the_kernel_has_completed_and_answers_it() -> None:
    stage = Stage(queue=10)
    clients = [stage.client(GET) for _ in range(5)]
    stage.until(lambda: backlog(stage.port) + stage.front.connections == 5)

    stage.is_last = True
    stage.front.stop_accepting()

    answers = [stage.answer(client) for client in clients]
    assert [status(answer) for answer in answers] == [200] * 5
    assert all(b"Connection: close" in answer for answer in answers)
    stage.until(lambda: all(stage.is_closed(client) for client in clients))
    assert not stage.front.is_busy
    stage.close()


def test_closing_idle_connections_spares_the_busy_ones(stage: Stage) -> None:
    idle, busy = stage.client(GET), stage.client(SLOW)
    stage.answer(idle)
    stage.until(lambda: stage.served.count("/slow") == 1 and stage.front.in_flight == 1)

    stage.front.close_idle()
    stage.gate.set()

    stage.until(lambda: stage.is_closed(idle))
    assert status(stage.answer(busy)) == 200


def test_cutting_says_how_many_requests_it_cost_and_refuses_those_that_wait(stage: Stage) -> None:
    working = [stage.client(SLOW) for _ in range(2)]
    stage.until(lambda: stage.front.in_flight == 2)
    waiting = stage.client(GET)
    stage.until(lambda: stage.front.in_flight == 3)

    cut = stage.front.cut()

    assert cut == 3
    assert status(stage.answer(waiting)) == 503
    stage.until(lambda: all(stage.is_closed(client) for client in working))
    assert stage.counts.reasons == [Reason.STOPPING]


def test_a_burst_is_answered_whole_and_nothing_is_left_in_flight(stage: Stage) -> None:
    clients = [stage.client(GET if number % 2 else post(5, b"hello")) for number in range(60)]

    statuses = {status(stage.answer(client)) for client in clients}

    assert statuses <= {200, 503}
    stage.until(lambda: stage.counts.in_flight == 0)
    assert len(stage.served) + len(stage.counts.reasons) == 60


def test_a_request_that_cannot_be_begun_costs_its_connection_and_no_place(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [stage.client(SLOW) for _ in range(2)]
    stage.until(lambda: stage.front.in_flight == 2)
    waiting, idle = stage.client(GET), stage.client()
    stage.until(lambda: stage.front.in_flight == 3 and stage.front.connections == 4)

    with monkeypatch.context() as patched:
        patched.setattr(stage.front, "_open_exchange", lambda *_: (_ for _ in ()).throw(MemoryError))
        stage.gate.set()
        stage.until(lambda: stage.is_closed(waiting))
        idle.sendall(GET)
        stage.until(lambda: stage.is_closed(idle))

    assert [status(stage.answer(client)) for client in (*busy, stage.client(GET))] == [200] * 3
    stage.until(lambda: stage.counts.in_flight == 0)
