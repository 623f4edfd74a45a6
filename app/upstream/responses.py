"""Answers of an HTTP server, read at a fraction of what :mod:`http.client` takes for it.

Two things cost when a photo passes through Python. ``http.client`` lets the parser of e-mails read a head; here a
regular expression goes through it once. And it receives what a body has at the moment, buffered, with two or three
system calls and turns of the interpreter's lock each; here the kernel collects a piece as a whole (``MSG_WAITALL``),
within what is left of the budget (``SO_RCVTIMEO`` counts for the whole of such a call, so that a server that drips
cannot stretch it), straight into the bytes that go on.

Under TLS bodies come as before: records have to be decrypted anyway.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

from app.upstream.waiting import BudgetedResponse, WaitBudget

_LINE_BYTES_MAX = 65_536
_HEADERS_MAX = 100
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([^\r\n]*))?\r?\n")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_BLANK = frozenset({b"\r\n", b"\n"})
_END = b"\r\n\r\n"
_NO_CONTENT: Final = frozenset({204, 304})
_CONTINUE_END = 200
_SHORTEST_WAIT_US = 1000  # zero would be for ever


class _Headers(http.client.HTTPMessage):
    """Headers that are found at once; anything else is as in its base.

    Args:
        pairs: In their order; the first of a name is the one that is found.
    """

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__()
        self.pairs = pairs
        self._first = {name.lower(): value for name, value in reversed(pairs)}
        for name, value in pairs:
            self.set_raw(name, value)

    def get(self, name: str, failobj: Any = None) -> Any:
        return self._first.get(name.lower(), failobj)

    def get_all(self, name: str, failobj: Any = None) -> Any:
        wanted = name.lower()
        if wanted not in self._first:
            return failobj
        return [value for said, value in self.pairs if said.lower() == wanted]

    def __getitem__(self, name: str) -> Any:
        return self._first.get(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first


class QuickResponse(BudgetedResponse):
    """An answer whose head is parsed and whose body is received without detours. Used by one thread at a time.

    Args:
        connection: The server's, blocking or with a time-out.
        method: Of the request.
        budget: How long reading all of it may wait.
    """

    def __init__(self, connection: socket.socket, *, method: str | None, budget: WaitBudget) -> None:
        super().__init__(connection, method=method, budget=budget)
        self._method = method
        self._budget = budget
        # Its own bytes cannot be asked for past the decryption.
        self._plain: socket.socket | None = None if isinstance(connection, ssl.SSLSocket) else connection
        self._is_drained = False

    def begin(self) -> None:
        """Read the head.

        Raises:
            UnavailableError: The budget is used up.
            http.client.HTTPException: It is no head, or breaks off, or says two things about its length.
        """
        minor, status, reason, headers = self._read_head()
        while status < _CONTINUE_END:
            minor, status, reason, headers = self._read_head()
        self.version, self.code, self.status, self.reason = 10 + minor, status, status, reason
        self.headers = self.msg = headers
        codings = [coding.lower() for coding in headers.get_all("Transfer-Encoding", ())]
        lengths = set(headers.get_all("Content-Length", ()))
        if codings not in ([], ["chunked"]) or len(lengths) > 1:
            raise http.client.IncompleteRead(b"")
        self.chunked, self.chunk_left = bool(codings), None
        self.length = None
        connection = str(headers.get("Connection", "")).lower()
        self.will_close = "close" in connection or (minor == 0 and "keep-alive" not in connection)
        if status in _NO_CONTENT or self._method == "HEAD":
            self.length = 0
        elif lengths and not self.chunked:
            self.length = _as_length(lengths.pop())
        elif not self.chunked:
            self.will_close = True

    def read(self, amt: int | None = None) -> bytes:
        """Return as many bytes, fewer only at the end, or where the server has broken off.

        Raises:
            UnavailableError: The budget is used up.
            http.client.HTTPException: A chunk's framing is broken, or the rest is missing.
        """
        plain = self._plain
        if plain is None or amt is None or not self.length or self._method == "HEAD" or self.isclosed():
            return super().read(amt)
        wanted = min(amt, self.length)
        content = self._collect(plain, wanted) if self._is_drained else self._read_buffered(plain, wanted)
        self.length -= len(content)
        if not self.length or not content:
            self._end_body()
        return content

    def _read_buffered(self, plain: socket.socket, wanted: int) -> bytes:
        """Read with what came together with the head."""
        buffered = len(self.fp.peek(1))
        first = self.fp.read(min(buffered, wanted))
        if len(first) == wanted or not buffered:
            return first
        self._is_drained = True
        return first + self._collect(plain, wanted - len(first))

    def _collect(self, plain: socket.socket, wanted: int) -> bytes:
        """Receive so many bytes, fewer when the server ends early, in as few calls as the kernel makes of it."""
        pieces: list[bytes] = []
        while wanted:
            with self._budget.wait() as seconds:
                plain.settimeout(None)
                _limit(plain, seconds)
                try:
                    piece = plain.recv(wanted, socket.MSG_WAITALL)
                except BlockingIOError as error:
                    raise self._budget.exceeded() from error
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _end_body(self) -> None:
        end: Callable[[], None] = self._close_conn  # type: ignore[attr-defined]  # its base's own way to end a body
        end()

    def _read_head(self) -> tuple[int, int, str, _Headers]:
        """Return the version, the status, the reason and the headers; what is not clear makes it no head."""
        head = self._take_head().decode("latin-1")
        said = _STATUS_LINE.match(head)
        if said is None:
            raise http.client.BadStatusLine(head[:100])
        at, pairs = said.end(), []
        while found := _HEADER.match(head, at):
            pairs.append((found[1], found[2]))
            at = found.end()
        if head[at:] not in {"\r\n", "\n"} or len(pairs) > _HEADERS_MAX:
            raise http.client.IncompleteRead(b"")
        return int(said[1]), int(said[2]), said[3] or "", _Headers(pairs)

    def _take_head(self) -> bytes:
        """Return all bytes up to the blank line: mostly they have come together."""
        end = self.fp.peek(1).find(_END)
        if end >= 0:
            return self.fp.read(end + len(_END))
        lines = [self._read_line()]
        while lines[-1] not in _BLANK and len(lines) <= _HEADERS_MAX + 1:
            lines.append(self._read_line())
        return b"".join(lines)

    def _read_line(self) -> bytes:
        line: bytes = self.fp.readline(_LINE_BYTES_MAX + 1)
        if not line.endswith(b"\n"):
            if len(line) > _LINE_BYTES_MAX:
                raise http.client.LineTooLong("header line")
            raise http.client.RemoteDisconnected("the server closed the connection within the head of its answer")
        return line


def _as_length(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise http.client.IncompleteRead(b"")
    return int(text)


def _limit(plain: socket.socket, seconds: float) -> None:
    """Let the kernel end a receive after so long, whatever it has collected by then."""
    whole, part = divmod(max(_SHORTEST_WAIT_US, int(seconds * 1_000_000)), 1_000_000)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))
