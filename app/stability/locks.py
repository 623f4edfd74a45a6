"""Locks that neither a signal nor a fork can close for ever.

They are re-entrant: a signal handler, a wait function or a log handler that uses the very policy that it interrupts
goes on instead of waiting for itself. What it sees may be off by the one call that it interrupts.

They are open in a forked child, whoever held them in the parent, and their owner may put right there what other
threads of the parent were about (:func:`after_fork`).
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeAlias

_log = logging.getLogger(__name__)

ReentrantLock: TypeAlias = threading.RLock

_locks: Final[weakref.WeakSet[ReentrantLock]] = weakref.WeakSet()
_repairs: Final[list[weakref.WeakMethod[Callable[[], None]]]] = []
_changing: Final = threading.RLock()
_registered: Final = threading.Event()


def make_lock() -> ReentrantLock:
    """Return a new lock."""
    lock = threading.RLock()
    with _changing:
        _register()
        _locks.add(lock)
    return lock


def after_fork(repair: Callable[[], None]) -> None:
    """Call a method in every child that is forked later, when all locks are open; its object is not kept alive.

    Args:
        repair: A bound method; what it raises is logged.
    """
    with _changing:
        _register()
        _repairs[:] = [known for known in _repairs if known() is not None]
        _repairs.append(weakref.WeakMethod(repair))


def _register() -> None:
    if not _registered.is_set():
        _registered.set()
        os.register_at_fork(after_in_child=_open_all)


def _open_all() -> None:
    _changing._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001  # as the standard library's logging does
    for lock in list(_locks):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001  # the standard library calls it after a fork, too
    for known in _repairs:
        repair = known()
        if repair is None:
            continue
        try:
            repair()
        except Exception:  # noqa: BLE001  # the child is to start whatever a policy's state is
            _log.exception("a policy could not be put right after a fork")
