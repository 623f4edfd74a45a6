"""The cache: gives an answer again without asking for it again.

::

    execute ─▶ no key ───────────────────────────────────────────────────────────▶ call
        └────▶ first tier ─▶ fresh ─────────────────────────────────────────────▶ its value
                   └ not fresh ─▶ one flight per key
                                    ├ follows ─▶ stale while revalidate? ────────▶ the stale value, at once
                                    │                └ no ─▶ waits ──────────────▶ the leader's answer
                                    └ leads ─▶ lower tiers ─▶ fresh ─────────────▶ its value, kept above
                                                   └ not fresh ─▶ call
                                                        ├ value ─▶ kept ─────────▶ the value
                                                        ├ negative ─▶ kept ──────▶ its value or error
                                                        ├ failed ─▶ stale? ──────▶ the stale value, else the failure
                                                        └ other error ─▶ forgotten ─▶ the error

**Who refreshes.** A stale value is refreshed by the one caller that leads the flight, in its own thread and within
its own deadline; all others get the stale value at once. (nginx does the same: ``proxy_cache_use_stale updating``.)
There is no thread in the background: it would outlive the request whose sessions and connections the call holds, it
would run without its deadline and identity, and a fork would lose it.

**Invalidation wins.** :meth:`Cache.invalidate` makes the flight of a key void, so that what was fetched before is not
kept after. A write that is under way at that moment is taken back when it has ended, and until then no tier is asked
for the key. This holds within a process; what another process fetched before, it may write into a common tier after,
and what it has in memory it keeps until its time is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias, cast

from .cache_stack import ERROR, FLIGHT, HIT, NEGATIVE, SOURCE, Found, Lifetimes, TierStack
from .cache_tiers import Entry, MemoryTier, Tier
from .clock import SYSTEM_CLOCK
from .deadline import DeadlineExceededError
from .fallback import has_failed
from .options import Options, option
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome
from .single_flight import Flight, SingleFlight, ends_with_caller, fresh_copy

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext
    from .figures import Figure

_log = logging.getLogger(__name__)

_SECONDS_MAX: Final = 31 * 86_400.0
_NOTHING: Final = object()


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """How long answers live, and how many are kept in memory."""

    ttl_seconds: float = option(
        60.0, "How long a value is fresh: given without asking anybody", unit="seconds", above=0, high=_SECONDS_MAX
    )
    stale_while_revalidate_seconds: float = option(
        0.0,
        "How long after that it is given to all callers but the one that refreshes it",
        unit="seconds",
        low=0,
        high=_SECONDS_MAX,
    )
    stale_if_error_seconds: float = option(
        0.0,
        "How long after its freshness it is given when a refresh fails",
        unit="seconds",
        low=0,
        high=_SECONDS_MAX,
    )
    negative_ttl_seconds: float = option(
        0.0, "How long a negative answer is given; 0 keeps none", unit="seconds", low=0, high=_SECONDS_MAX
    )
    max_flight_wait_seconds: float = option(
        30.0,
        "How long another caller's call is waited for before one of the waiting takes over",
        unit="seconds",
        above=0,
        high=3600,
    )
    max_entries: int = option(
        1000, "Entries of the memory tier that a configuration builds", unit="entries", low=1, high=10_000_000
    )
    max_entry_bytes: int = option(
        1_048_576, "Larger values are not kept in that memory tier", unit="bytes", low=1, high=2**40
    )

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.negative_ttl_seconds > self.ttl_seconds:
            yield (
                f"negative_ttl_seconds ({self.negative_ttl_seconds:g}) exceeds ttl_seconds ({self.ttl_seconds:g}): "
                "what is missing stays missing for longer than what is there stays"
            )


TierBuilder: TypeAlias = "Callable[[CacheOptions, PolicyContext], Sequence[Tier]]"
"""Makes the tiers of one cache, fastest first, for a configuration."""


class Cache:
    """A policy that keeps answers by :attr:`.call.Call.key`. Thread-safe; see the module for what it does.

    Calls without a key pass. The key has to say everything that an answer depends on: what is done, for whom, with
    which arguments. Kept are values that the classification calls a success, ``None`` among them.

    A negative answer says that there is nothing. It is an error of the given types, of which each caller gets a
    fresh copy (one that cannot be copied is not kept), or a value that ``negative_result`` knows, which comes back as
    it is.

    Args:
        name: For metrics.
        options: How long answers live.
        tiers: Fastest first, each for this cache only; None for memory alone, as the options say.
        classification: What is a failure; it is never kept, and a stale value helps against it.
        negative: Errors that are negative answers.
        negative_result: Says so of a returned value. One that raises calls it none.
        accepts: Judges values that come from a tier, by key and value; what it refuses counts as not there.
        clock: What the memory tier reads the time from, when there is no other tier.

    Raises:
        OptionError: Two tiers have the same name.
    """

    Options: ClassVar[type[CacheOptions]] = CacheOptions
    _given: ClassVar[dict[str, Any]] = {}
    _tiers_of: ClassVar[TierBuilder | None] = None

    def __init__(
        self,
        name: str,
        options: CacheOptions | None = None,
        *,
        tiers: Sequence[Tier] | None = None,
        classification: Classification = EVERY_ERROR_FAILS,
        negative: tuple[type[Exception], ...] = (),
        negative_result: Callable[[Any], bool] | None = None,
        accepts: Callable[[str, Any], bool] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.options = options = CacheOptions() if options is None else options
        self._revalidate_seconds = options.stale_while_revalidate_seconds
        # A value that is good enough for all others is so for the one whose refresh fails (RFC 5861, section 3).
        self._error_seconds = max(options.stale_if_error_seconds, self._revalidate_seconds)
        self._classification = classification
        self._negative = negative
        self._negative_result = negative_result
        lifetimes = Lifetimes(options.ttl_seconds, self._error_seconds, options.negative_ttl_seconds)
        memory = MemoryTier(options.max_entries, max_entry_bytes=options.max_entry_bytes, clock=clock)
        self._stack = TierStack(name, [memory] if tiers is None else tiers, lifetimes, accepts)
        self._looks = [self._stack.look(level) for level in range(len(self._stack))]
        self._look_first = self._looks[0]
        self._flights = SingleFlight(options.max_flight_wait_seconds)

    @classmethod
    def given(
        cls,
        *,
        tiers: TierBuilder | None = None,
        negative: tuple[type[Exception], ...] = (),
        negative_result: Callable[[Any], bool] | None = None,
        accepts: Callable[[str, Any], bool] | None = None,
    ) -> type[Self]:
        """Return a class of this kind that a configuration can name, with what only code can say.

        ``build_pipelines(document, kinds={"cache": Cache.given(negative=(PhotoNotFoundError,))})``
        """
        given = {"negative": negative, "negative_result": negative_result, "accepts": accepts}
        build_tiers = None if tiers is None else staticmethod(tiers)
        return cast(
            "type[Self]",
            type(cls.__name__, (cls,), {"_given": given, "_tiers_of": build_tiers, "__doc__": cls.__doc__}),
        )

    @classmethod
    def build(cls, options: CacheOptions, context: PolicyContext) -> Self:
        """Return a cache for a pipeline, in memory unless :meth:`given` said more.

        See :class:`.context.PolicyKind`.
        """
        tiers = None if cls._tiers_of is None else cls._tiers_of(options, context)
        return cls(
            context.name,
            options,
            tiers=tiers,
            classification=context.classification,
            clock=context.clock,
            **cls._given,
        )

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Return what is kept for a call's key, else what the call or another one for this key returns.

        Raises:
            DeadlineExceededError: The deadline passed while another's call was waited for.
            Exception: What the call raised, or a copy of what another's call raised, or of a negative answer.
        """
        key = call.key
        if not key:
            return proceed(call)
        found = None if self._flights.is_doomed(key) else self._look_first(key)
        if found is not None and found.entry.fresh_seconds > 0:
            return _replay(found.entry)
        return self._fetch(call, proceed, found)

    def invalidate(self, key: str) -> bool:
        """Forget a key, and let no call that began before put it back.

        Returns:
            Whether all tiers have forgotten it. One that failed may still have it, until its time is over.
        """
        # Before each tier, for a leader may have read it from there and be about to write it into those above.
        return self._stack.remove(key, before_each=self._flights.void)

    def figures(self) -> Iterator[Figure]:
        """Yield what became of requests, by tier."""
        return self._stack.figures()

    def _fetch(self, call: Call[Any], proceed: Proceed, seen: Found | None) -> Any:
        flights = self._flights
        while True:
            flight, leads = flights.board(call.key)
            if leads:
                try:
                    return self._lead(flight, call, proceed, seen)
                finally:
                    flights.leave(flight)
            if flight.is_own:
                return proceed(call)
            if seen is not None and seen.entry.fresh_seconds > -self._revalidate_seconds:
                self._stack.count_stale(seen)
                return seen.entry.value
            try:
                has_answer = flights.follow(flight)
            except DeadlineExceededError:
                if seen is None:
                    raise
                self._stack.count_stale(seen)
                return seen.entry.value
            if has_answer:
                return self._share(flight)

    def _share(self, flight: Flight) -> Any:
        try:
            value = flight.answer()
        except Exception as error:
            self._stack.count(FLIGHT, NEGATIVE if isinstance(error, self._negative) else ERROR)
            raise
        self._stack.count(FLIGHT, HIT)
        return value

    def _lead(self, flight: Flight, call: Call[Any], proceed: Proceed, seen: Found | None) -> Any:
        """Return the answer for all who wait, and keep it."""
        best = None if self._flights.is_doomed(flight.key) else self._look_again(flight, seen)
        if best is not None and best.entry.fresh_seconds > 0:
            entry = best.entry
            _settle(flight, entry)
            if best.level:
                self._keep(flight, entry, best.level)
            return _replay(entry)
        if best is not None and best.level:
            self._keep(flight, best.entry, best.level)
        try:
            value = proceed(call)
        except Exception as error:
            stale = self._raised(flight, error, best)
            if stale is _NOTHING:
                raise
            return stale
        return self._returned(flight, value, best)

    def _look_again(self, flight: Flight, seen: Found | None) -> Found | None:
        """Return the best entry of all tiers."""
        # Since the first look, another flight may have come and gone.
        again = self._stack.glance(flight.key)
        if again is not None:
            self._stack.count(FLIGHT, NEGATIVE if again.entry.is_negative else HIT)
            return again
        best = seen
        for look in self._looks[1:]:
            found = look(flight.key)
            if found is None:
                continue
            if best is None or found.entry.fresh_seconds > best.entry.fresh_seconds:
                best = found
            if found.entry.fresh_seconds > 0:
                break
        return best

    def _returned(self, flight: Flight, value: Any, best: Found | None) -> Any:
        outcome = self._classification.of_result(value)
        if outcome is Outcome.FAILURE:
            self._stack.count(SOURCE, ERROR)
            value = self._stale(flight, best, value)
            flight.land(value)
            return value
        is_negative = self._is_negative(value)
        self._stack.count(SOURCE, NEGATIVE if is_negative else HIT)
        flight.land(value)
        if outcome is Outcome.SUCCESS:
            options = self.options
            seconds = options.negative_ttl_seconds if is_negative else options.ttl_seconds
            self._replace(flight, Entry(flight.key, value, seconds, is_negative))
        return value

    def _raised(self, flight: Flight, error: Exception, best: Found | None) -> Any:
        """Return the value that helps against an error, or ``_NOTHING``."""
        if isinstance(error, self._negative):
            self._stack.count(SOURCE, NEGATIVE)
            flight.fail(error)
            kept = fresh_copy(error)
            seconds = 0.0 if kept is None else self.options.negative_ttl_seconds
            self._replace(flight, Entry(flight.key, kept, seconds, is_negative=True))
            return _NOTHING
        self._stack.count(SOURCE, ERROR)
        if not has_failed(self._classification, error):
            flight.fail(error)
            self._stack.remove(flight.key)  # an answer, so what was kept is no longer true
            return _NOTHING
        stale = self._stale(flight, best, _NOTHING)
        if stale is not _NOTHING:
            flight.land(stale)
        elif not ends_with_caller(error):
            flight.fail(error)
        return stale

    def _stale(self, flight: Flight, best: Found | None, otherwise: Any) -> Any:
        """Return the value of a stale entry, unless there is none or it has been invalidated meanwhile."""
        if best is None or flight.is_void:
            return otherwise
        self._stack.count_stale(best)
        return best.entry.value

    def _is_negative(self, value: Any) -> bool:
        try:
            return self._negative_result is not None and bool(self._negative_result(value))
        except Exception:  # noqa: BLE001  # a rule's mistake is its own
            with suppress(Exception):  # what a log handler raises
                _log.exception("the rule for negative results raised", extra={"policy": self.name})
            return False

    def _replace(self, flight: Flight, entry: Entry) -> None:
        """Keep an answer in all tiers; one that is not to be kept at all ends what was kept before it."""
        if entry.fresh_seconds > 0:
            self._keep(flight, entry)
        else:
            self._stack.remove(flight.key)

    def _keep(self, flight: Flight, entry: Entry, below: int | None = None) -> None:
        if not self._flights.begin_write(flight):
            return
        try:
            self._stack.put(entry, below)
        finally:
            if self._flights.end_write(flight):
                self._stack.remove(flight.key)
                self._flights.take_back(flight)


def _settle(flight: Flight, entry: Entry) -> None:
    if isinstance(entry.value, Exception) and entry.is_negative:
        flight.fail(entry.value)
    else:
        flight.land(entry.value)


def _replay(entry: Entry) -> Any:
    """Return an entry's value, or raise a fresh copy of its error."""
    if entry.is_negative and isinstance(entry.value, Exception):
        raise fresh_copy(entry.value) or entry.value
    return entry.value
