"""Links to photos' bytes, by the best way that works now: the CDN, else the object store, else this server.

::

    cdn ──not usable, or failed──▶ storage ──not usable, or failed──▶ origin

Whether a way is usable is known without a call: by its breaker and by the last sample of health. So a way that is
down costs nothing, and one that is back is taken again by itself. All photos of one request take the same way.

All links that are made within one window are alike and end together, so that caches on the way keep what they lead
to: a link made at ``t`` ends at ``floor(t / W) * W + 2 * W``, and so lives for ``W`` to ``2 * W`` seconds.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from app.cdn.base import UrlSigner
from app.db.base import utc_now
from app.errors import UnavailableError
from app.photos.signed_links import SignedLinks
from app.stability import Alternative, Call, CircuitBreaker, Fallback, FallbackOptions, Figure, State
from app.storage.links import PresignedStore

_log = logging.getLogger(__name__)

_PASSING = frozenset({State.CLOSED, State.DISABLED, State.METRICS_ONLY})
_BARRING = frozenset({State.OPEN, State.FORCED_OPEN})

Via: TypeAlias = Literal["cdn", "storage", "origin"]
"""The ways, by their names."""


class LinkedPhoto(Protocol):
    """What of a photo a link needs; a row is one."""

    @property
    def object_key(self) -> str:
        """Where the store has the bytes."""
        ...

    @property
    def sha256(self) -> str:
        """Their lower-case hex digest."""
        ...

    @property
    def content_type(self) -> str:
        """Their media type."""
        ...


class Window(NamedTuple):
    """When the links that are made now begin and end."""

    issued_at: dt.datetime
    expires_at: dt.datetime


class Link(NamedTuple):
    """A link to one photo's bytes.

    Attributes:
        url: Absolute; a path where the server's own address is not configured.
        expires_at: When it ends, UTC.
        via: ``cdn``, ``storage`` or ``origin``.
    """

    url: str
    expires_at: dt.datetime
    via: Via


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the bytes.

    Attributes:
        name: ``cdn``, ``storage`` or ``origin``.
        make: Makes one link.
        is_usable: Tells whether the way works now, as far as is known without a call.
    """

    name: Via
    make: Callable[[Any, Window], Link]
    is_usable: Callable[[], bool] = lambda: True

    def make_all(self, photos: Sequence[Any], window: Window) -> list[Link]:
        """Return a link to each photo.

        Raises:
            UnavailableError: The way is not usable, or what signs for it is not.
        """
        if not self.is_usable():
            raise UnavailableError(f"Links do not lead by {self.name} now.")
        return [self.make(photo, window) for photo in photos]


class LinkService:
    """Makes links. Thread-safe.

    Args:
        ways: The best one first; the last one should always work.
        window_seconds: See the module.
        now: The wall clock.
    """

    def __init__(self, ways: Sequence[Way], *, window_seconds: int, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._first, *others = ways
        self._window_seconds = window_seconds
        self._now = now
        self._via = self._first.name
        self._fallback: Fallback | None = None
        if others:
            alternatives = [Alternative(way.name, partial(_take, way)) for way in others]
            self._fallback = Fallback("links", alternatives, FallbackOptions(primary=self._first.name))

    def links(self, photos: Sequence[LinkedPhoto]) -> list[Link]:
        """Return a link to each photo, in their order, all by the same way.

        Raises:
            UnavailableError: No way works; the first one's error.
        """
        call = Call(self._first.make_all, photos, window_at(self._now(), self._window_seconds))
        links: list[Link] = call() if self._fallback is None else self._fallback.execute(call, _run)
        if links and links[0].via != self._via:
            self._via = links[0].via
            _log.warning("links lead by %s now", self._via)
        return links

    def figures(self) -> Iterator[Figure]:
        """Yield how often links went another way than the best one."""
        if self._fallback is not None:
            yield from self._fallback.figures()


def is_closed(breaker: CircuitBreaker | None) -> bool:
    """Tell whether a breaker lets all calls through; for a way that something else tries out now and then."""
    return breaker is None or breaker.state in _PASSING


def may_pass(breaker: CircuitBreaker | None) -> bool:
    """Tell whether a breaker might let a call through; for a way that nobody may be trying out at the moment.

    An open breaker stays open until somebody calls. Where all bytes leave by links, nobody does: so the end of its
    wait is enough here.
    """
    if breaker is None or breaker.state not in _BARRING:
        return True
    snapshot = breaker.snapshot()
    return snapshot.state is not State.FORCED_OPEN and snapshot.remaining_seconds == 0


def window_at(now: dt.datetime, seconds: int) -> Window:
    """Return the window of links that are made now.

    Args:
        now: Aware.
        seconds: How long the same photo has the same link.
    """
    begins = int(now.timestamp()) // seconds * seconds
    return Window(dt.datetime.fromtimestamp(begins, dt.UTC), dt.datetime.fromtimestamp(begins + 2 * seconds, dt.UTC))


def cdn_way(signer: UrlSigner, is_usable: Callable[[], bool]) -> Way:
    """Return the way through the CDN, whose origin is the bucket: it knows objects by their keys."""

    def make(photo: LinkedPhoto, window: Window) -> Link:
        signed = signer.sign(f"/{quote(photo.object_key)}", expires_at=window.expires_at)
        return Link(signed.url, signed.expires_at, "cdn")

    return Way("cdn", make, is_usable)


def storage_way(store: PresignedStore, is_usable: Callable[[], bool]) -> Way:
    """Return the way past this server, straight from the object store."""

    def make(photo: LinkedPhoto, window: Window) -> Link:
        url = store.presigned_get(photo.object_key, content_type=photo.content_type, **window._asdict())
        return Link(url, window.expires_at, "storage")

    return Way("storage", make, is_usable)


def origin_way(links: SignedLinks) -> Way:
    """Return the way through this server."""

    def make(photo: LinkedPhoto, window: Window) -> Link:
        url = links.make(
            photo.object_key, sha256=photo.sha256, content_type=photo.content_type, expires_at=window.expires_at
        )
        return Link(url, window.expires_at, "origin")

    return Way("origin", make)


def find_ways(
    links: SignedLinks,
    *,
    store: PresignedStore | None,
    signer: UrlSigner | None,
    breakers: Mapping[str, CircuitBreaker],
    has_failed: Callable[[str], bool],
) -> list[Way]:
    """Return the ways that are configured, the best one first.

    Args:
        links: Signs for this server.
        store: Signs for the object store; None where it does not, or is not to.
        signer: Signs for the CDN; None without one.
        breakers: Of the pipelines, by their names.
        has_failed: Tells whether the last sample of a health check failed.
    """
    ways = [origin_way(links)]
    if store is not None:
        reads = breakers.get("storage_read")
        ways.insert(0, storage_way(store, lambda: may_pass(reads) and not has_failed("storage")))
    if signer is not None:
        edge, tokens = breakers.get("cdn"), breakers.get("cdn_token")

        def works() -> bool:
            # Health looks at the edge and so feeds its breaker; for tokens nobody asks while links lead elsewhere.
            return is_closed(edge) and may_pass(tokens) and not has_failed("cdn")

        ways.insert(0, cdn_way(signer, works))
    return ways


def _take(way: Way, call: Call[Any], _failure: Exception) -> list[Link]:
    return way.make_all(*call.args)


def _run(call: Call[list[Link]]) -> list[Link]:
    try:
        return call()
    except UnavailableError:
        raise
    except Exception:
        _log.exception("links cannot be made the first way")
        raise
