"""A client's connection as the event loop knows it."""

from __future__ import annotations

import enum
import fcntl
import socket
import struct
import termios
from typing import Any

from app.ops.admission import RequestClass
from app.server.exchange import Exchange
from app.server.heads import ChunkScan, Head


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
    """

    __slots__ = (
        "buffer",
        "chunks",
        "descriptor",
        "exchange",
        "head",
        "is_counted",
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
        arrived = len(self.buffer) - head.length
        if self.chunks is not None:
            return self.chunks.scan(self.buffer, head.length) or arrived >= ahead_bytes
        return arrived >= min(head.body_bytes, ahead_bytes)

    def unsent_bytes(self) -> int:
        """Return how much the kernel still holds for the client."""
        raw = fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("i", raw)[0])
