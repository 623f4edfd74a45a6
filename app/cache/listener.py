"""Hears of other processes' changes by Redis: one thread and one connection per process.

While it hears nothing, memory is believed for 30 seconds at most, and what was remembered before counts no more: a
change may have been missed. It asks for a sign of life every two seconds, and comes back by itself.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from redis import Redis, RedisError

from app.cache.announcements import Announcer
from app.cache.redis_tier import CHANNEL, refusal_of
from app.stability import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 2.0
"""For connecting, and for one answer of the listener's own connection."""

PING_SECONDS: Final = 2.0
"""How often it asks whether its connection lives."""

SILENCE_SECONDS: Final = 5.0
"""After so long without any answer its connection counts as lost."""

_TURN_SECONDS = 0.2
_BACKOFF_SECONDS_MAX = 5.0
_MESSAGE_BYTES_MAX = 65_536
_NAME_LENGTH_MAX = 200


class ChangeListener:
    """The thread. :meth:`start` once, :meth:`close` once.

    Args:
        open_client: Opens a client for this listener alone.
        announcer: Is told what was heard.
        token: Of this process, whose own words it leaves out.
        clock: The monotonic clock.
    """

    def __init__(
        self, open_client: Callable[[], Redis], announcer: Announcer, token: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._open_client = open_client
        self._announcer = announcer
        self._token = token
        self._monotonic = clock.monotonic
        self._stop = threading.Event()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cache-changes", daemon=True)

    @property
    def is_connected(self) -> bool:
        """Whether it hears of changes now."""
        return self._connected.is_set()

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            reason = ""
            try:
                self._listen()
            except (RedisError, OSError) as error:
                reason = refusal_of(error) or type(error).__name__
            was_connected = self.is_connected
            failures = 1 if was_connected else failures + 1
            self._connected.clear()
            if was_connected:
                self._announcer.lost_touch()
            if failures == 1 and not self._stop.is_set():
                _log.warning("changes by other instances are not heard of: %s", reason)
            self._stop.wait(min(_BACKOFF_SECONDS_MAX, 0.05 * 2.0 ** min(failures, 10)))

    def _listen(self) -> None:
        with self._open_client() as client, client.pubsub() as subscription:
            subscription.subscribe(CHANNEL)
            heard_at = asked_at = self._monotonic()
            while not self._stop.is_set():
                message = subscription.get_message(timeout=_TURN_SECONDS)
                now = self._monotonic()
                if message is not None:
                    heard_at = now
                    self._hear(message)
                elif now - heard_at >= SILENCE_SECONDS:
                    raise TimeoutError
                if now - asked_at >= PING_SECONDS:
                    asked_at = now
                    subscription.ping()
                self._announcer.pay()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            # What was remembered until now may have changed while nobody listened.
            self._announcer.lost_touch()
            self._connected.set()
            _log.info("changes by other instances are heard of")
        elif message["type"] == "message":
            names = names_of(message["data"], own=self._token)
            if names:
                self._announcer.heard(names)


def names_of(raw: object, *, own: str) -> list[str]:
    """Return the names that a message says have changed; none for one that is not ours to hear.

    Args:
        raw: As it came.
        own: The token of this process.
    """
    if not isinstance(raw, bytes) or len(raw) > _MESSAGE_BYTES_MAX:
        return []
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return []
    if not isinstance(said, dict) or said.get("from") == own or not isinstance(said.get("names"), list):
        return []
    return [name for name in said["names"] if isinstance(name, str) and len(name) <= _NAME_LENGTH_MAX]
