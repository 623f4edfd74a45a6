"""Calls to other services, counted and timed the same way whichever service it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol


class CallObserver(Protocol):
    """Who hears of calls to other services. Must neither raise nor block."""

    def external_call(
        self, service: str, operation: str, *, outcome: Literal["success", "failure"], seconds: float, kind: str = ""
    ) -> None:
        """One call has ended; ``kind`` is the error's class for a failure."""
        ...


class SilentObserver:
    """Hears and keeps nothing: for calls before there are metrics."""

    def external_call(
        self, service: str, operation: str, *, outcome: Literal["success", "failure"], seconds: float, kind: str = ""
    ) -> None:
        """Do nothing."""


@contextmanager
def observed(
    observer: CallObserver, service: str, operation: str, *, answers: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Observe the call that the block makes.

    Args:
        observer: Who hears of it.
        service: Which one is called, of a fixed set: it becomes a label.
        operation: What is asked of it; as above.
        answers: Errors that are successes: the service has answered.
    """
    started = time.perf_counter()
    kind = ""
    try:
        yield
    except answers:
        raise
    except BaseException as error:
        kind = type(error).__name__
        raise
    finally:
        seconds = time.perf_counter() - started
        outcome: Literal["success", "failure"] = "failure" if kind else "success"
        observer.external_call(service, operation, outcome=outcome, seconds=seconds, kind=kind)
