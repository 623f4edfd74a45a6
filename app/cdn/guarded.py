"""A signer that asks an API, and a purger, behind their pipelines: same port in, same port out.

::

    sign     cdn_token    timeout(retry(breaker(bulkhead(signer.sign))))
    purge    cdn_purge    timeout(breaker(purger.purge))

An API that refuses us is believed for a few seconds without being asked again, and told to the log once a minute: a
wrong key must not become a storm of calls, and needs an operator.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

from app.cdn.base import Purger, SignedUrl, UrlSigner
from app.errors import UnavailableError, UpstreamDeniedError, UpstreamTimeoutError
from app.stability import (
    SYSTEM_CLOCK,
    Call,
    CallRefusedError,
    Classification,
    Clock,
    DeadlineExceededError,
    Pipeline,
)

_log = logging.getLogger(__name__)

R = TypeVar("R")

DENIED_SECONDS: Final = 5.0
"""For how long a refusal is believed without asking again."""

_LOG_PAUSE_SECONDS: Final = 60.0

CDN_CLASSIFICATION: Final = Classification(
    failures=(UnavailableError,),
    # An operator has to act: neither a second try nor a pause helps.
    ignored=(UpstreamDeniedError,),
)
"""What errors say of the CDN and of its API."""


class _Refusals:
    """What a service has refused lately. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until = self._quiet_until = -math.inf
        self._last: UpstreamDeniedError | None = None

    def check(self) -> None:
        """Raise what was refused, as long as that is believed."""
        with self._lock:
            last = self._last if self._clock.monotonic() < self._until else None
        if last is not None:
            raise UpstreamDeniedError(last.detail) from last.__cause__

    def remember(self, error: UpstreamDeniedError) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._last, self._until = error, now + DENIED_SECONDS
            is_news = now >= self._quiet_until
            if is_news:
                self._quiet_until = now + _LOG_PAUSE_SECONDS
        if is_news:
            _log.error("no access to the CDN: %s", error.__cause__ or error.detail)


class _Guard:
    """One pipeline before one service."""

    def __init__(self, pipeline: Pipeline, clock: Clock) -> None:
        self._pipeline = pipeline
        self._refusals = _Refusals(clock)

    def run(self, call: Call[R]) -> R:
        self._refusals.check()
        try:
            return self._pipeline.run(call)
        except UpstreamDeniedError as error:
            self._refusals.remember(error)
            raise
        except CallRefusedError as refusal:
            # Without a cause: a refusal in an outage is no news, and its log line needs no traceback.
            raise UnavailableError(
                "The CDN's API is not available now. Try again.", retry_after_seconds=refusal.retry_after_seconds
            ) from None
        except DeadlineExceededError as error:
            raise UpstreamTimeoutError("The CDN's API did not answer in time. Try again.") from error


class GuardedSigner:
    """A :class:`app.cdn.base.UrlSigner` behind a pipeline. Thread-safe if the signer is.

    Args:
        signer: What asks the API.
        pipeline: What stands before it.
        clock: Where "now" comes from.
    """

    def __init__(self, signer: UrlSigner, pipeline: Pipeline, clock: Clock = SYSTEM_CLOCK) -> None:
        self._signer = signer
        self._guard = _Guard(pipeline, clock)

    @property
    def name(self) -> str:
        """See the port."""
        return self._signer.name

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """See the port."""
        return self._guard.run(Call(self._signer.sign, path, expires_at=expires_at))

    def close(self) -> None:
        """See the port."""
        self._signer.close()


class GuardedPurger:
    """A :class:`app.cdn.base.Purger` behind a pipeline. Thread-safe if the purger is.

    Args:
        purger: What asks the API.
        pipeline: What stands before it.
        clock: Where "now" comes from.
    """

    def __init__(self, purger: Purger, pipeline: Pipeline, clock: Clock = SYSTEM_CLOCK) -> None:
        self._purger = purger
        self._guard = _Guard(pipeline, clock)

    def purge(self, paths: Sequence[str]) -> None:
        """See the port."""
        self._guard.run(Call(self._purger.purge, paths))

    def close(self) -> None:
        """See the port."""
        self._purger.close()
