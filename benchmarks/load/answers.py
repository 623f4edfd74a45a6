"""Frames one HTTP/1.1 answer out of the bytes of a connection: status, the headers that count, and where it ends.

Not here: the body, which is counted and dropped. RFC 9112, sections 6.3 and 7.1.
"""

from __future__ import annotations

from typing import Final

_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_HEAD_BYTES: Final = 65_536
_INTERIM: Final = 200
_WITHOUT_BODY: Final = frozenset({204, 304})
_UNTIL_CLOSED: Final = -1
_SIZE, _TRAILER, _NO_CHUNKS = 1, 2, 0


class BrokenAnswerError(Exception):
    """What came is no HTTP answer; the message says why."""


class AnswerReader:
    """Reads one answer; not thread-safe.

    Attributes:
        status: 0 until the head is whole.
        has_retry_after: Whether a ``Retry-After`` header came.
        closes: Whether the server will close the connection after this answer.
        body_bytes: How many bytes of the body have come, chunk framing included.
    """

    __slots__ = ("_buffer", "_left", "_stage", "body_bytes", "closes", "has_retry_after", "status")

    def __init__(self) -> None:
        self.status = 0
        self.has_retry_after = False
        self.closes = False
        self.body_bytes = 0
        self._buffer = b""
        self._left = 0
        self._stage = _NO_CHUNKS

    def feed(self, received: bytes) -> bool:
        """Take the next bytes; return whether the answer is whole.

        Raises:
            BrokenAnswerError: No HTTP, or more bytes than the answer has.
        """
        if not self.status:
            received = self._buffer + received
            end = received.find(_END_OF_HEAD)
            if end < 0:
                if len(received) > _MOST_HEAD_BYTES:
                    raise BrokenAnswerError(f"more than {_MOST_HEAD_BYTES} bytes of headers")
                self._buffer = received
                return False
            self._buffer = b""
            self._read_head(received[:end])
            received = received[end + 4 :]
            if not self.status:  # an interim answer: the real one follows
                return self.feed(received)
        self.body_bytes += len(received)
        if self._stage != _NO_CHUNKS:
            return self._read_chunks(received)
        if self._left == _UNTIL_CLOSED:
            return False
        self._left -= len(received)
        if self._left < 0:
            raise BrokenAnswerError("bytes after the end of the answer")
        return self._left == 0

    def ends_whole(self) -> bool:
        """Return whether the end of the connection is the proper end of the answer."""
        return self.status != 0 and self._left == _UNTIL_CLOSED and self._stage == _NO_CHUNKS

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1."):
            raise BrokenAnswerError(f"no HTTP/1.x answer: {head[:40]!r}")
        status = int(head[9:12])
        if status < _INTERIM:
            return
        self.status = status
        lowered = head.lower()
        self.has_retry_after = b"\r\nretry-after:" in lowered
        self.closes = _field(lowered, b"connection") == b"close" or head.startswith(b"HTTP/1.0")
        if status in _WITHOUT_BODY:
            return
        if _field(lowered, b"transfer-encoding") == b"chunked":
            self._stage = _SIZE
            return
        length = _field(lowered, b"content-length")
        self._left = int(length) if length else _UNTIL_CLOSED

    def _read_chunks(self, received: bytes) -> bool:
        """Skip chunks; ``_left`` is what is still to come of one, with the line end behind it."""
        rest = self._buffer + received
        while True:
            if self._left:
                skipped = min(self._left, len(rest))
                self._left -= skipped
                rest = rest[skipped:]
            end = rest.find(b"\r\n")
            if self._left or end < 0:
                self._buffer = rest
                return False
            line, rest = rest[:end], rest[end + 2 :]
            if self._stage == _TRAILER:
                if not line:
                    return True
                continue
            size = int(line.partition(b";")[0], 16)
            self._stage, self._left = (_SIZE, size + 2) if size else (_TRAILER, 0)


def _field(lowered: bytes, name: bytes) -> bytes:
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = lowered.find(b"\r\n", start)
    return lowered[start : end if end >= 0 else None].strip()
