"""What systemd is told of the server: ready, reloading, stopping, a line of status, and that it lives.

The protocol is that of sd_notify(3): a datagram to the socket that ``NOTIFY_SOCKET`` names. Nothing is sent where it
is not set, and what cannot be delivered within a second is dropped: no server fails for what it tells.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

_log = logging.getLogger(__name__)

_SECONDS_MAX: Final = 1.0
_MICROSECONDS: Final = 1_000_000
_BEATS_PER_INTERVAL: Final = 3  # a late one does no harm


class ServiceNotifier:
    """Tells systemd how the server stands.

    Args:
        environ: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read, once.
        now: The monotonic clock.

    Attributes:
        beat_seconds: How often :meth:`beat` should be called at least; None when nobody watches.
    """

    def __init__(self, environ: Mapping[str, str], now: Callable[[], float] = time.monotonic) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._now = now
        self._beat_at = 0.0
        self._said = ""
        self.beat_seconds = self._watched_every(environ)

    @staticmethod
    def _watched_every(environ: Mapping[str, str]) -> float | None:
        interval, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        if not interval.isdecimal() or int(interval) == 0 or watched not in {"", str(os.getpid())}:
            return None
        return int(interval) / _MICROSECONDS / _BEATS_PER_INTERVAL

    def ready(self, status: str) -> None:
        """Say that requests are answered, after a start or a reload."""
        self._send("READY=1", status)

    def reloading(self, status: str) -> None:
        """Say that a reload has begun; :meth:`ready` ends it."""
        self._send("RELOADING=1", status, f"MONOTONIC_USEC={int(self._now() * _MICROSECONDS)}")

    def stopping(self, status: str) -> None:
        """Say that the server stops."""
        self._send("STOPPING=1", status)

    def status(self, status: str) -> None:
        """Say something in words, unless it is what was said last."""
        if status != self._said:
            self._send("", status)

    def succeeded_by(self, pid: int) -> None:
        """Say which process is the server from now on."""
        self._send(f"MAINPID={pid}", f"process {pid} has taken over")

    def beat(self) -> None:
        """Say that the server lives, when it is time to; nothing where nobody watches."""
        if self.beat_seconds is not None and self._now() >= self._beat_at:
            self._beat_at = self._now() + self.beat_seconds
            self._deliver("WATCHDOG=1")

    def _send(self, word: str, status: str, *more: str) -> None:
        self._said = status
        self._deliver("\n".join(filter(None, (word, f"STATUS={status}", *more))))

    def _deliver(self, message: str) -> None:
        if not self._address:
            return
        place = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SECONDS_MAX)
                sender.connect(place)
                sender.sendall(message.encode())
        except OSError as error:
            _log.debug("the service manager was not told: %s", error.strerror or error)
