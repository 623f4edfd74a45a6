"""A client's two ends: a reader that waits only for a client that sends, a writer that never waits."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.server.streams import PACE_BYTES, PROGRESS_BYTES, ClientReader, ClientWriter

LARGE = 32 * 1024 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's non-blocking end and its client's."""
    server, client = socket.socketpair()
    server.setblocking(False)
    client.settimeout(20)
    with server, client:
        yield server, client


@contextmanager
def crawling(client: socket.socket, piece: bytes, every_seconds: float) -> Iterator[None]:
    """Let a client send a piece now and then, until the block ends."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(every_seconds):
            client.sendall(piece)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        stop.set()
        sending.join()


def read_all(client: socket.socket, size: int) -> bytes:
    """Read so many bytes."""
    received = bytearray()
    while len(received) < size and (piece := client.recv(1 << 20)):
        received += piece
    return bytes(received)


@pytest.mark.parametrize("piece_bytes", [1, 100, 8192, 65_536, 300_000])
def test_a_body_comes_in_pieces_of_the_size_asked_for_and_nothing_is_lost(
    pair: tuple[socket.socket, socket.socket], piece_bytes: int
) -> None:
    server, client = pair
    content = os.urandom(200 * min(piece_bytes, 2000) + 7)
    reader = ClientReader(server, content[:50], 5)

    def send() -> None:
        client.sendall(content[50:])
        client.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()

    pieces = list(iter(lambda: reader.read(piece_bytes, read_ahead=10**9), b""))

    sending.join()
    assert b"".join(pieces) == content
    assert {len(piece) for piece in pieces[:-1]} <= {piece_bytes}


def test_what_the_loop_has_read_comes_first(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    reader = ClientReader(server, b"early ", 5)
    client.sendall(b"late")

    assert reader.read(10) == b"early late"


def test_a_reader_waits_for_bytes_that_are_on_their_way(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    reader = ClientReader(server, b"", 20)
    threading.Timer(0.05, client.sendall, (b"later",)).start()

    assert reader.read(5) == b"later"


def test_a_silent_client_is_given_up(pair: tuple[socket.socket, socket.socket]) -> None:
    server, _ = pair

    with pytest.raises(TimeoutError):
        ClientReader(server, b"", 0.05).read(1)


def test_next_to_nothing_is_silence_and_progress_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    reader = ClientReader(server, b"", 0.2)
    client.sendall(bytes(PROGRESS_BYTES))
    assert len(reader.read(PROGRESS_BYTES)) == PROGRESS_BYTES

    with crawling(client, b"x", 0.02), pytest.raises(TimeoutError):
        reader.read(PROGRESS_BYTES)


def test_what_was_kept_comes_between_what_was_received_and_what_comes(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    server, client = pair
    client.sendall(b"last")
    with (tmp_path / "kept").open("w+b", buffering=0) as kept:
        kept.write(b"then ")
        reader = ClientReader(server, b"first ", 5, kept)
        before = reader.kept_bytes()

        assert reader.read(15) == b"first then last"

        assert (before, reader.kept_bytes()) == (5, 0)


def test_a_client_below_the_pace_is_given_up_though_it_moves(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    reader = ClientReader(server, b"", 0.2)
    piece = bytes(PROGRESS_BYTES // 2)  # twice what silence asks for, a third of the pace

    with crawling(client, piece, 0.05), pytest.raises(TimeoutError):
        reader.read(100 * PACE_BYTES)  # more than comes while this thread stands still


def test_the_end_of_the_connection_is_the_end_of_the_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    client.close()

    assert ClientReader(server, b"", 5).read(1) == b""


def test_nothing_is_sent_before_the_flush_and_then_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    writer = ClientWriter(server)
    client.setblocking(False)

    for piece in (b"head ", b"", b"body"):
        writer.sendall(piece)
    with pytest.raises(BlockingIOError):
        client.recv(1)

    assert writer.flush()
    assert client.recv(100) == b"head body"


def test_a_file_goes_between_the_bytes_around_it(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    server, client = pair
    (tmp_path / "file").write_bytes(b"0123456789")
    writer = ClientWriter(server)

    with (tmp_path / "file").open("rb") as file:
        writer.sendall(b"<")
        writer.sendfile(file, 2, 3)
        writer.sendall(b">")
        writer.sendfile(file, 8)

        assert writer.flush()

    assert client.recv(100) == b"<234>89"


def test_what_the_kernel_does_not_take_stays_and_no_flush_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    writer = ClientWriter(server)
    content = os.urandom(LARGE)
    for begin in range(0, LARGE, LARGE // 100):  # more pieces than one system call takes
        writer.sendall(content[begin : begin + LARGE // 100])

    assert not writer.flush()
    assert not writer.wait(0)

    received: list[bytes] = []
    reading = threading.Thread(target=lambda: received.append(read_all(client, LARGE)))
    reading.start()
    while not writer.flush():
        assert writer.wait(20)
    reading.join()
    assert received == [content]


def test_a_large_file_goes_on_where_it_stopped(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    server, client = pair
    content = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(content)
    writer = ClientWriter(server)

    with (tmp_path / "file").open("rb") as file:
        writer.sendfile(file)
        assert not writer.flush()
        received: list[bytes] = []
        reading = threading.Thread(target=lambda: received.append(read_all(client, LARGE)))
        reading.start()
        while not writer.flush():
            assert writer.wait(20)
    reading.join()

    assert received == [content]


def test_a_file_that_became_shorter_breaks_the_answer_off(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    server, _ = pair
    (tmp_path / "file").write_bytes(b"short")
    writer = ClientWriter(server)

    with (tmp_path / "file").open("rb") as file:
        writer.sendfile(file, 0, 10)

        with pytest.raises(EOFError):
            writer.flush()


def test_an_interim_answer_leaves_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair

    sent = ClientWriter(server).send(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert (sent, client.recv(100)) == (25, b"HTTP/1.1 100 Continue\r\n\r\n")


def test_a_client_that_is_gone_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    client.close()
    writer = ClientWriter(server)
    writer.sendall(b"x")

    with pytest.raises(OSError, match="Broken pipe"):
        writer.flush()
