"""The two ends of a client's connection as a request's thread sees them: what it reads from, what it writes to.

The socket itself never blocks: it belongs to the event loop. A read waits for the client, but only as long as the
client keeps sending; a write never waits: what the kernel does not take at once stays here until the client has read
on, and no thread has to stand by for it.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from itertools import islice
from typing import IO, Any, Final

from gunicorn.http.unreader import Unreader

CHUNK_BYTES: Final = 64 * 1024
"""How much is read from a client at once."""

PROGRESS_BYTES: Final = 1024
"""A client that moves fewer bytes than this within its time-out counts as silent."""

PACE_BYTES: Final = 16 * 1024
"""So many bytes a second a thread waits for, after one time-out's patience; slower clients are not for threads."""

_READ_BYTES_MAX = 1024 * 1024
_PARTS_MAX = 64  # of one writev; far below IOV_MAX


class ClientReader(Unreader):  # type: ignore[misc]  # its base has no types
    """Where gunicorn's parser and body readers take a request's bytes from: what the loop has read, then the socket.

    Args:
        connection: Non-blocking.
        received: What the loop has read already.
        silence_seconds: How long the client may take for the next :data:`PROGRESS_BYTES` bytes.
        kept: A file with what the loop has read after that, from its beginning on.
    """

    def __init__(
        self, connection: socket.socket, received: bytes, silence_seconds: float, kept: IO[bytes] | None = None
    ) -> None:
        super().__init__()
        self._connection = connection
        self._silence_seconds = silence_seconds
        self._kept = kept
        if kept is not None:
            kept.seek(0)
        self._began = 0.0
        self._total = 0
        self._ends = 0.0
        self._since = 0
        self.unread(received)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return bytes from the socket, empty at its end.

        Args:
            size_hint: How many the caller may still want.

        Raises:
            TimeoutError: The client is silent, or as good as.
            OSError: It is gone.
        """
        size = min(max(size_hint or 0, 8192), _READ_BYTES_MAX)
        if self._kept is not None and (kept := self._kept.read(size)):
            return kept
        while True:
            try:
                received = self._connection.recv(size)
            except BlockingIOError:
                self._wait()
            else:
                self._note(len(received))
                return received

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Return so many bytes, fewer only at the end; without a size what comes next.

        Gunicorn's own way reads up to a megabyte ahead and then copies what is left of it once for each piece.

        Args:
            size: How many.
            read_ahead: How many the caller may want in all; not needed here.
        """
        if size is None or size < 0:
            content: bytes = super().read(None, read_ahead)
            return content
        pieces: list[bytes] = []
        while size and (piece := self.take_buffered() or self.chunk(size)):
            if len(piece) > size:
                self.unread(piece[size:])
                piece = piece[:size]
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def kept_bytes(self) -> int:
        """Return how much of the file is still unread."""
        return 0 if self._kept is None else os.fstat(self._kept.fileno()).st_size - self._kept.tell()

    def _note(self, count: int) -> None:
        self._total += count
        self._since += count
        if self._since >= PROGRESS_BYTES:
            self._since, self._ends = 0, 0.0

    def _wait(self) -> None:
        now = time.monotonic()
        self._began = self._began or now
        self._ends = self._ends or now + self._silence_seconds
        is_too_slow = now >= self._began + self._silence_seconds + self._total / PACE_BYTES
        if is_too_slow or now >= self._ends or not _is_ready(self._connection, select.POLLIN, self._ends - now):
            raise TimeoutError("the client sends nothing, or next to nothing")


class _FilePart:
    """A part of a file that is still to be sent."""

    __slots__ = ("count", "descriptor", "offset")

    def __init__(self, descriptor: int, offset: int, count: int) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count


class ClientWriter:
    """What a response is written to: takes the place of the socket for gunicorn's ``Response``.

    Nothing is sent before :meth:`flush`, so that a head and the body's beginning leave in one piece.

    Args:
        connection: Non-blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._parts: deque[memoryview | _FilePart] = deque()

    def sendall(self, content: bytes) -> None:
        """Take bytes to send."""
        if content:
            self._parts.append(memoryview(content))

    def send(self, content: bytes) -> int:
        """Take bytes and send them at once if the kernel takes them: an interim answer."""
        self.sendall(content)
        self.flush()
        return len(content)

    def sendfile(self, file: IO[Any], offset: int = 0, count: int | None = None) -> None:
        """Take a part of a file to send.

        Args:
            file: Has a descriptor, and stays open until the response is closed.
            offset: Where the part begins.
            count: How many bytes; all up to the file's end by default.
        """
        descriptor = file.fileno()
        self._parts.append(
            _FilePart(descriptor, offset, os.fstat(descriptor).st_size - offset if count is None else count)
        )

    def flush(self) -> bool:
        """Send what the kernel takes.

        Returns:
            Whether nothing is left.

        Raises:
            OSError: The client is gone.
            EOFError: The file has become shorter than what was promised of it.
        """
        parts = self._parts
        try:
            while parts:
                first = parts[0]
                if isinstance(first, _FilePart):
                    self._send_file(first)
                else:
                    self._send_bytes()
        except BlockingIOError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until the client has read on; False when it has not within so many seconds."""
        return _is_ready(self._connection, select.POLLOUT, seconds)

    def _send_bytes(self) -> None:
        parts = self._parts
        run: list[memoryview] = []
        for part in islice(parts, _PARTS_MAX):
            if isinstance(part, _FilePart):
                break
            run.append(part)
        sent = self._connection.sendmsg(run)
        for part in run:
            if sent < len(part):
                parts[0] = part[sent:]
                return
            sent -= len(part)
            parts.popleft()

    def _send_file(self, part: _FilePart) -> None:
        while part.count:
            sent = os.sendfile(self._connection.fileno(), part.descriptor, part.offset, part.count)
            if not sent:
                raise EOFError("a file ended before what was promised of it")
            part.offset += sent
            part.count -= sent
        self._parts.popleft()


def _is_ready(connection: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), event)
    return bool(poll.poll(max(0.0, seconds) * 1000))
