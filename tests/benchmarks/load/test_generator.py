"""The load generator against a server that does what a script says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from benchmarks.load.generator import Generator
from benchmarks.load.records import Outcome, Record
from benchmarks.load.traffic import Target, Traffic, at_once, steady
from tests.benchmarks.load.scripted import answer, answer_and_close, reset, scripted

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
BARE_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwell"
PATIENCE_SECONDS = 30.0


def run(target: Target, *traffics: Traffic, sources: int = 1) -> list[Record]:
    return Generator(target, traffics, sources=sources).run()


def traffic(path: str, due: Sequence[float], timeout_seconds: float = PATIENCE_SECONDS, **how: Any) -> Traffic:
    """Return one whose answers are waited for, as the machine may stand still for some seconds."""
    return Traffic("x", path, due, timeout_seconds=timeout_seconds, **how)


def test_every_way_to_end_is_counted_as_what_it_is() -> None:
    held = threading.Event()

    def hold(connection: socket.socket, _: bytes) -> bool:
        held.set()
        return bool(connection.recv(1))  # until the client leaves

    script = {
        b"/good": answer(GOOD),
        b"/refused": answer(REFUSAL),
        b"/bare": answer(BARE_503),
        b"/held": hold,
        b"/reset": reset,
        b"/short": answer_and_close(SHORT),
    }
    with scripted(script) as server:
        records = run(
            server.target,
            *(traffic(path.decode(), at_once(3), 4.0 if path == b"/held" else PATIENCE_SECONDS) for path in script),
        )

    assert held.is_set()
    tallies = [record.tally() for record in records]
    assert [(one.good, one.refused, one.other, one.timed_out, one.lost) for one in tallies] == [
        (3, 0, 0, 0, 0),
        (0, 3, 0, 0, 0),
        (0, 0, 3, 0, 0),
        (0, 0, 0, 3, 0),
        (0, 0, 0, 0, 3),
        (0, 0, 0, 0, 3),
    ]
    assert all(one.offered == 3 for one in tallies)
    assert {loss.reason for loss in records[4].losses} == {"ECONNRESET"}
    assert {str(loss).partition("s, ")[2].partition("s, ")[2] for loss in records[5].losses} == {
        "reading after 4 bytes of 200 on a fresh connection: closed"
    }


def test_the_circumstances_of_losses_are_kept_within_bounds() -> None:
    with scripted({b"/": answer(REFUSAL)}) as server:
        records = run(server.target, traffic("/", steady(2000, 0.15)))

    assert records[0].tally().refused == 300
    assert len(records[0].losses) == 200
    assert {loss.reason for loss in records[0].losses} == {"answered 503"}


def test_nobody_listening_is_a_loss() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))

        records = run(Target("127.0.0.1", taken.getsockname()[1]), traffic("/", at_once(2)))

    assert records[0].tally().lost == 2
    assert {loss.reason for loss in records[0].losses} == {"ECONNREFUSED"}


def test_the_loop_is_open_no_request_waits_for_the_answer_to_another() -> None:
    everyone = threading.Barrier(50)

    def wait_for_all(connection: socket.socket, _: bytes) -> bool:
        everyone.wait(20)  # a loop that waited for one answer would never send the fiftieth request
        connection.sendall(GOOD)
        return True

    with scripted({b"/": wait_for_all}) as server:
        records = run(server.target, traffic("/", steady(500, 0.1)))

    assert records[0].tally().good == 50


def test_time_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    with scripted({b"/": answer(GOOD)}) as server:
        generator = Generator(server.target, [traffic("/", [0.0, 0.0])])
        send, delays = generator._send, [0.2]

        def send_late(exchange: Any) -> None:
            time.sleep(delays.pop() if delays else 0)  # what a busy machine does to a generator
            send(exchange)

        generator._send = send_late  # type: ignore[method-assign]  # the only way to be late on purpose

        records = generator.run()

    assert min(records[0].seconds) >= 0.2
    assert records[0].late_p99_ms() >= 200


@pytest.mark.parametrize("keeps", [True, False])
def test_connections_are_used_again_unless_each_request_shall_have_its_own(*, keeps: bool) -> None:
    def answer_ten(connection: socket.socket, _: bytes) -> bool:
        if len(server.requests) >= 10:
            generator.stop()
        connection.sendall(GOOD)
        return True

    with scripted({b"/": answer_ten}) as server:
        generator = Generator(
            server.target, [traffic("/", at_once(1), keeps_connections=keeps)], closed_seconds=PATIENCE_SECONDS
        )
        generator.run()

    assert len(server.requests) >= 10
    assert server.connections == (1 if keeps else len(server.requests))


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    closing = GOOD.replace(b"Content", b"Connection: close\r\nContent")
    with scripted({b"/": answer(closing)}) as server:
        records = run(server.target, traffic("/", steady(50, 0.2)))

    assert records[0].tally().good == server.connections == 10


def test_a_refusal_that_does_not_wait_for_the_body_is_a_refusal() -> None:
    def refuse_early(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(REFUSAL)
        return False

    content = b"x" * 5_000_000
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                refuse_early(connection, b"")
                while connection.recv(65_536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        target = Target("127.0.0.1", listener.getsockname()[1])
        records = run(target, traffic("/", at_once(1), method="POST", body=content))
        thread.join(20)

    assert records[0].tally().refused == 1


def test_every_unique_body_is_unlike_all_others() -> None:
    with scripted({b"/": answer(GOOD)}) as server:
        for _ in range(2):
            run(server.target, traffic("/", at_once(5), method="POST", body=b"abc", is_unique=True))

    assert len(set(server.requests)) == 10


def test_clients_can_come_from_many_addresses() -> None:
    with scripted({b"/": answer(GOOD)}) as server:
        run(server.target, traffic("/", at_once(20), keeps_connections=False), sources=5)

    assert len(server.sources) == 5
    assert all(source.startswith("127.1.") for source in server.sources)


def test_a_slow_client_takes_its_time_both_ways() -> None:
    content = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    slow = traffic("/", at_once(1), method="POST", body=b"y" * 50_000, bytes_per_second=500_000)
    with scripted({b"/": answer(content)}) as server:
        records = run(server.target, slow)

    assert records[0].tally().good == 1
    # 150 KB at 500 KB a second, but for the first piece.
    assert records[0].seconds[0] >= 0.25


def test_a_closed_loop_keeps_as_many_under_way_as_it_is_told() -> None:
    under_way, most, lock = [0], [0], threading.Lock()
    everyone = threading.Barrier(4)

    def count(connection: socket.socket, _: bytes) -> bool:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        if len(server.requests) > 40:
            generator.stop()
            everyone.abort()
        with suppress(threading.BrokenBarrierError):
            everyone.wait(PATIENCE_SECONDS)
        with lock:
            under_way[0] -= 1
        connection.sendall(GOOD)
        return True

    with scripted({b"/": count}) as server:
        generator = Generator(server.target, [traffic("/", at_once(4))], closed_seconds=PATIENCE_SECONDS)
        records = generator.run()

    assert most[0] == 4
    assert 40 < records[0].tally().good == len(server.requests)


def test_a_closed_loop_ends_in_time() -> None:
    with scripted({b"/": answer(GOOD)}) as server:
        records = Generator(server.target, [traffic("/", at_once(4))], closed_seconds=0.1).run()

    assert records[0].tally().good >= 4
    assert max(records[0].due) < 0.1


def test_told_to_stop_it_sends_no_more_and_waits_for_what_is_under_way() -> None:
    first = threading.Event()
    stopped = threading.Event()

    def late(connection: socket.socket, _: bytes) -> bool:
        first.set()
        stopped.wait(20)
        connection.sendall(GOOD)
        return True

    with scripted({b"/": late}) as server:
        generator = Generator(server.target, [traffic("/", [0.0, 300.0])])
        thread = threading.Thread(target=generator.run)
        thread.start()
        first.wait(20)
        generator.stop()
        stopped.set()
        thread.join(20)

    assert not thread.is_alive()
    assert list(generator.records[0].outcomes) == [Outcome.GOOD]
