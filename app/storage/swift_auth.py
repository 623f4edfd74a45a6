"""The token of one Swift account: fetched once for all threads, renewed early, dropped when Swift refuses it.

::

    no token          one caller signs in, the others wait for it
    valid             used
    5 minutes left    used, while a thread beside renews it; if that fails, again after 10 s, until it has ended
    refused (401)     dropped by the first who was refused, one caller signs in, each tries once more
    refused again, or wrong credentials    refused here for 5 s without asking anyone, and logged once a minute

The early renewal has a thread of its own, because an identity service that hangs must not cost a request whose token
is still good a second. A token that lives for less than 10 minutes is renewed at half of its life.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from typing import Final, NoReturn

from cachetools import TLRUCache

from app.stability import Call, CallRefusedError, Clock, DeadlineExceededError, Pipeline, SystemClock
from app.stability.single_flight import SingleFlight
from app.storage.base import DenialReason, StorageDeniedError, StorageError
from app.storage.swift_identity import DENIED, SwiftAccess, TokenSource, token_error

_log = logging.getLogger(__name__)

EARLY_SECONDS: Final = 300.0
"""How long before its end a token is renewed."""

DENIED_SECONDS: Final = 5.0
"""For how long a refusal is believed without asking again."""

_RENEWAL_PAUSE_SECONDS = 10.0
_LOG_PAUSE_SECONDS = 60.0
_LONGEST_FLIGHT_SECONDS = 60.0
_ACCOUNT = "account"
_SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class _Held:
    access: SwiftAccess
    renew_at: float
    ends_at: float


class SwiftTokens:
    """The token of one account. Thread-safe.

    Args:
        source: Who issues tokens.
        pipeline: What stands before every call to it; None for nothing.
        clock: Where "now" comes from.
    """

    def __init__(
        self, source: TokenSource, *, pipeline: Pipeline | None = None, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._source = source
        self._pipeline = Pipeline("swift_auth") if pipeline is None else pipeline
        self._clock = clock
        self._lock = threading.Lock()
        self._flights = SingleFlight(_LONGEST_FLIGHT_SECONDS)
        self._cache: TLRUCache[str, _Held] = TLRUCache(
            maxsize=1, ttu=lambda _account, held, _now: held.ends_at, timer=clock.monotonic
        )
        self._storage_url: str | None = None
        self._denied_until = -math.inf
        self._reason: BaseException | None = None
        self._quiet_until = -math.inf
        self._renewal_at = -math.inf
        self._renews = False

    @property
    def storage_url(self) -> str | None:
        """The account's address as the last answer had it; None before the first."""
        return self._storage_url

    def current(self) -> SwiftAccess:
        """Return a token that has not ended.

        Raises:
            StorageDeniedError: The credentials are refused.
            StorageTokenError: There is none, and the service does not give one in time.
        """
        held = self._held()
        if held is None:
            try:
                return self._flights.run(_ACCOUNT, self._sign_in)
            except DeadlineExceededError as error:
                raise token_error() from error
        if self._clock.monotonic() >= held.renew_at:
            self._renew_beside()
        return held.access

    def replace(self, refused: SwiftAccess) -> SwiftAccess:
        """Return another token than one that Swift has refused; of many who ask for it one signs in.

        Raises:
            StorageError: As :meth:`current`.
        """
        self._drop(refused)
        return self.current()

    def reject(self, refused: SwiftAccess) -> NoReturn:
        """Give up on a new token that Swift has refused as well; nobody signs in for a few seconds.

        Args:
            refused: What :meth:`replace` returned.

        Raises:
            StorageDeniedError: Always.
        """
        self._drop(refused)
        reason = DenialReason(
            "the object store refuses a token that its identity service has just issued; check that "
            "PHOTO_API_STORAGE__SWIFT_STORAGE_URL is of the same cloud as PHOTO_API_STORAGE__SWIFT_AUTH_URL"
        )
        self._remember(reason)
        raise StorageDeniedError(DENIED) from reason

    def close(self) -> None:
        """Give back connections."""
        self._source.close()

    def _held(self) -> _Held | None:
        with self._lock:
            return self._cache.get(_ACCOUNT)

    def _drop(self, refused: SwiftAccess) -> None:
        with self._lock:
            held = self._cache.get(_ACCOUNT)
            if held is not None and held.access.token == refused.token:
                del self._cache[_ACCOUNT]

    def _sign_in(self) -> SwiftAccess:
        """Ask for a token and keep it, unless someone else has just done so."""
        held = self._held()
        if held is not None and self._clock.monotonic() < held.renew_at:
            return held.access
        self._raise_denial()
        try:
            access = self._pipeline.run(Call(self._source.authenticate))
        except StorageDeniedError as error:
            self._remember(error.__cause__)
            raise
        except CallRefusedError as refusal:
            # Without a cause: a refusal in an outage is no news.
            raise token_error(refusal.retry_after_seconds) from None
        except DeadlineExceededError as error:
            raise token_error() from error
        now = self._clock.monotonic()
        ends_at = now + access.lives_seconds
        renew_at = ends_at - min(EARLY_SECONDS, access.lives_seconds / 2)
        with self._lock:
            self._cache[_ACCOUNT] = _Held(access, renew_at, ends_at)
            self._storage_url = access.storage_url
        return access

    def _raise_denial(self) -> None:
        with self._lock:
            is_denied, reason = self._clock.monotonic() < self._denied_until, self._reason
        if is_denied:
            raise StorageDeniedError(DENIED) from reason

    def _remember(self, reason: BaseException | None) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._reason, self._denied_until = reason, now + DENIED_SECONDS
            is_news = now >= self._quiet_until
            if is_news:
                self._quiet_until = now + _LOG_PAUSE_SECONDS
        if is_news:
            _log.error("no access to the object store: %s", reason)

    def _renew_beside(self) -> None:
        with self._lock:
            if self._renews or self._clock.monotonic() < self._renewal_at:
                return
            self._renews = True
        try:
            threading.Thread(target=self._renew, name="swift-token", daemon=True).start()
        except RuntimeError:  # no more threads: the token still lives, and the next request tries again
            self._end_renewal()
            _log.warning("no thread to renew the object store's token")

    def _renew(self) -> None:
        try:
            self._flights.run(_ACCOUNT, self._sign_in)
        except StorageError as error:
            _log.warning("the object store's token is not renewed yet: %s", error.__cause__ or error.detail)
        finally:
            self._end_renewal()

    def _end_renewal(self) -> None:
        with self._lock:
            self._renews = False
            self._renewal_at = self._clock.monotonic() + _RENEWAL_PAUSE_SECONDS
