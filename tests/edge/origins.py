"""A tiny server behind the edge that writes down what nginx sends, over which connections, and answers by rote."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


@dataclass
class Received:
    """One request: over which connection it came, and its bytes."""

    connection: int
    head: str
    body: bytes = field(repr=False, default=b"")

    def headers(self, name: str) -> list[str]:
        """Return every value of a header."""
        return re.findall(rf"^{re.escape(name)}: (.*)\r$", self.head, re.MULTILINE | re.IGNORECASE)


class Origin:
    """Listens on a free port of the loopback interface until the end of its ``with``.

    Args:
        answers: Whether it answers at all.
        answer: What, to every request.
        closes_after: After how many requests it closes a connection, without having said so; None for never.
        path: Listen on this unix socket instead.
    """

    def __init__(
        self, *, answers: bool = True, answer: bytes = OK, closes_after: int | None = None, path: str | None = None
    ) -> None:
        self._answers = answers
        self._answer = answer
        self._closes_after = closes_after
        self.requests: list[Received] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
            self.address = f"unix:{path}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(20)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def answer_now(self) -> None:
        """Answer on every connection, once."""
        for connection in self._open:
            connection.sendall(self._answer)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError):  # nginx has gone, or the block has ended
            self._converse(connection, number)

    def _converse(self, connection: socket.socket, number: int) -> None:
        received = b""
        served = 0
        while True:
            piece = connection.recv(65_536)
            if not piece:
                return
            received += piece
            head, blank, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: ([0-9]+)", head, re.IGNORECASE)
            if not blank or len(body) < (int(length[1]) if length else 0):
                continue
            self.requests.append(Received(number, f"{head.decode()}\r\n", body))
            received = b""
            if served == self._closes_after:
                connection.shutdown(socket.SHUT_RDWR)
                return
            served += 1
            if self._answers:
                connection.sendall(self._answer)
