"""A client's connection as the event loop knows it."""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import IO, Any

from app.ops.admission import RequestClass
from app.server.exchange import Exchange
from app.server.heads import ChunkScan, Head
from app.server.streams import CHUNK_BYTES, PROGRESS_BYTES


class Phase(enum.Enum):
    """Where a connection is.

    ::

        IDLE ──► HEAD ──► BODY ──► WAITING ──► WORKING ◄──► PARKED
          ▲        │                  │           │
          │        └──── refused ─────┴──► CLOSING ┤
          └──────────── SKIPPING ◄────────────────┘
    """

    IDLE = enum.auto()
    """Between two requests."""
    HEAD = enum.auto()
    """A request has begun to come in."""
    BODY = enum.auto()
    """Its head is there; its body's beginning is waited for."""
    WAITING = enum.auto()
    """It waits for a place."""
    WORKING = enum.auto()
    """A thread has it."""
    PARKED = enum.auto()
    """Its answer waits until the client has read on."""
    SKIPPING = enum.auto()
    """Its answer is sent; what is left of its body is dropped."""
    CLOSING = enum.auto()
    """The last answer is sent; what still comes is dropped until the client has closed."""


class Connection:
    """State only; what happens to it is :class:`app.server.front.Front`'s affair.

    Args:
        client: The socket; made non-blocking.
        peer: The client's address, as the kernel says it.
        server: The listener's address.

    Attributes:
        phase: Where it is.
        buffer: What has come in and belongs to no request at work.
        head: Of the request that comes in, waits or is at work.
        chunks: Follows its body, when that is chunked.
        exchange: The request at work.
        offered_at: When it was offered for admission; monotonic seconds.
        is_counted: Whether it counts as in flight.
        moved_bytes: What a slow client had sent, or still had to read, when its time-out began.
        skip_bytes: How much of a body is still to be dropped.
        kept: A file with what of a slow body came after the buffer; None while there is none.
        kept_bytes: How much is in it.
    """

    __slots__ = (
        "buffer",
        "chunks",
        "descriptor",
        "exchange",
        "head",
        "is_counted",
        "kept",
        "kept_bytes",
        "moved_bytes",
        "offered_at",
        "peer",
        "phase",
        "server",
        "skip_bytes",
        "socket",
    )

    def __init__(self, client: socket.socket, peer: Any, server: Any) -> None:
        client.setblocking(False)
        self.socket = client
        self.descriptor = client.fileno()
        self.peer = peer
        self.server = server
        self.phase = Phase.IDLE
        self.buffer = bytearray()
        self.head: Head | None = None
        self.chunks: ChunkScan | None = None
        self.exchange: Exchange | None = None
        self.offered_at = 0.0
        self.is_counted = False
        self.moved_bytes = 0
        self.skip_bytes = 0
        self.kept: IO[bytes] | None = None
        self.kept_bytes = 0

    @property
    def request_class(self) -> RequestClass:
        """What its request is admitted as."""
        return self.head.request_class if self.head is not None else RequestClass.READ

    def has_body(self, ahead_bytes: int) -> bool:
        """Tell whether as much of the body is there as is waited for.

        Args:
            ahead_bytes: Of a longer body so much.
        """
        head = self.head
        if head is None or head.waits:
            return True
        arrived = self.arrived_bytes - head.length
        if self.chunks is not None:
            return self.chunks.scan(self.buffer, head.length) or arrived >= ahead_bytes
        return arrived >= min(head.body_bytes, ahead_bytes)

    @property
    def arrived_bytes(self) -> int:
        """How much of its request has come in, the head included."""
        return len(self.buffer) + self.kept_bytes

    @property
    def missing_bytes(self) -> int:
        """How much of a body of announced length has not come in yet."""
        return 0 if self.head is None else max(0, self.head.length + self.head.body_bytes - self.arrived_bytes)

    def keep(self, received: bytes) -> None:
        """Put what has come in into the file.

        Raises:
            OSError: There is no room for it.
        """
        if self.kept is not None and self.kept.write(received) != len(received):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.kept_bytes += len(received)

    def receive(self, at_most: int | None = None) -> bytes | None:
        """Return what has come; empty at the end, None when nothing is here.

        Args:
            at_most: So many bytes; as many as are read at once by default.
        """
        try:
            return self.socket.recv(CHUNK_BYTES if at_most is None else min(CHUNK_BYTES, at_most))
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def has_sent_on(self) -> bool:
        """Tell whether the client has sent enough since the last question not to count as silent."""
        before, self.moved_bytes = self.moved_bytes, self.arrived_bytes
        return self.moved_bytes - before >= PROGRESS_BYTES

    def has_read_on(self) -> bool:
        """Tell whether the client has read enough since the last question not to count as silent."""
        before, self.moved_bytes = self.moved_bytes, self.unsent_bytes()
        return before - self.moved_bytes >= PROGRESS_BYTES

    def unsent_bytes(self) -> int:
        """Return how much the kernel still holds for the client."""
        raw = fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("i", raw)[0])
