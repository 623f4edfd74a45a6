"""Takes connections from the kernel, as long as there is room for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from errno import EMFILE, ENFILE
from functools import partial
from socket import socket
from typing import Any, Final

from app.server.loop import READABLE, EventLoop

_log = logging.getLogger(__name__)

_ACCEPTS_MAX: Final = 64
_BACKLOG_MAX: Final = 4096
_FULL_SECONDS: Final = 0.1


class Acceptor:
    """The listeners of a worker. Belongs to the thread of its event loop.

    Args:
        loop: The event loop.
        take: Given each new connection, the client's address and the listener's.
        has_room: Whether another connection may be taken.
        now: The monotonic clock.
    """

    def __init__(
        self,
        loop: EventLoop,
        take: Callable[[socket, Any, Any], None],
        has_room: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._take = take
        self._has_room = has_room
        self._now = now
        self._listeners: list[socket] = []
        self._is_watching = False
        self._rests_until = 0.0

    def open(self, listeners: Iterable[socket]) -> None:
        """Accept from these listeners from now on."""
        self._listeners = list(listeners)
        for listener in self._listeners:
            listener.setblocking(False)
        self.tend()

    def tend(self) -> None:
        """Watch the listeners while there is room; otherwise new connections wait in the kernel."""
        if self._now() < self._rests_until:
            return
        if self._has_room():
            self._watch()
        else:
            self._rest()

    def close(self) -> None:
        """Take what the kernel has completed, and nothing after it."""
        for listener in self._listeners:
            for _ in range(_BACKLOG_MAX):
                if not self._accept(listener):
                    break
        self._rest()
        self._listeners = []

    def _watch(self) -> None:
        if not self._is_watching:
            for listener in self._listeners:
                self._loop.add(listener.fileno(), READABLE, partial(self._accept_some, listener), once=False)
            self._is_watching = True

    def _rest(self) -> None:
        if self._is_watching:
            for listener in self._listeners:
                self._loop.remove(listener.fileno())
            self._is_watching = False

    def _accept_some(self, listener: socket, _events: int) -> None:
        for _ in range(_ACCEPTS_MAX):
            if not self._has_room() or not self._accept(listener):
                return

    def _accept(self, listener: socket) -> bool:
        try:
            client, peer = listener.accept()
        except OSError as error:  # most often: none is left
            if error.errno in {EMFILE, ENFILE}:  # then the next ones wait in the kernel, and the loop does not spin
                _log.warning("no file is free for another connection")
                self._rests_until = self._now() + _FULL_SECONDS
                self._rest()
            return False
        self._take(client, peer, listener.getsockname())
        return True
