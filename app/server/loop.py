"""The event loop of a worker: sockets that are ready, calls from other threads, and times that have come.

One thread runs it; only :meth:`EventLoop.call_soon` may be called by others. Nothing in it may block.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

ItemT = TypeVar("ItemT")

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
LEFT: Final = select.EPOLLRDHUP
"""The other side has closed, or has closed its half."""

_EVENTS_MAX = 256  # of one turn, so that what other threads have to say is never far away


class EventLoop:
    """epoll, made for one thread. Call :meth:`close` in the end."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()

    def add(self, descriptor: int, events: int, callback: Callable[[int], None], *, once: bool = True) -> None:
        """Watch a descriptor.

        Args:
            descriptor: Of a socket.
            events: :data:`READABLE`, :data:`WRITABLE`, :data:`LEFT`, or 0; errors are always watched.
            callback: Called in the loop's thread with what has happened.
            once: Whether it is watched for one event only, until :meth:`rearm`.
        """
        self._epoll.register(descriptor, events | (select.EPOLLONESHOT if once else 0))
        self._callbacks[descriptor] = callback

    def rearm(self, descriptor: int, events: int) -> None:
        """Watch a descriptor for one more event."""
        self._epoll.modify(descriptor, events | select.EPOLLONESHOT)

    def remove(self, descriptor: int) -> None:
        """Watch it no longer; before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Let the loop's thread call something. From any thread, and from signal handlers."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def turn(self, timeout_seconds: float) -> None:
        """Wait for something to happen and call whom it concerns.

        Args:
            timeout_seconds: How long to wait at most.
        """
        for descriptor, events in self._epoll.poll(max(0.0, timeout_seconds), _EVENTS_MAX):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
                continue
            callback = self._callbacks.get(descriptor)
            if callback is not None:  # else what came before it in this turn has closed it
                callback(events)
        calls = self._calls
        for _ in range(len(calls)):
            calls.popleft()()

    def close(self) -> None:
        """Let go of what it holds."""
        self._epoll.close()
        os.close(self._wake)


class Timer(Generic[ItemT]):
    """Items that each wait for the same length of time.

    Args:
        seconds: How long.
        now: The monotonic clock.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._ends: dict[ItemT, float] = {}  # in the order of their ends, for all wait equally long

    def start(self, item: ItemT) -> None:
        """Let an item wait, from now."""
        self._ends.pop(item, None)
        self._ends[item] = self._now() + self._seconds

    def stop(self, item: ItemT) -> None:
        """Let an item wait no longer."""
        self._ends.pop(item, None)

    def take_ended(self) -> Iterator[ItemT]:
        """Yield, and forget, every item that has waited long enough."""
        now = self._now()
        while self._ends and next(iter(self._ends.values())) <= now:
            item = next(iter(self._ends))
            del self._ends[item]
            yield item

    def oldest(self) -> ItemT | None:
        """Return the item that ends first."""
        return next(iter(self._ends), None)

    def next_end(self) -> float | None:
        """Return when the first one ends."""
        return next(iter(self._ends.values()), None)
