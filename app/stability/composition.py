"""Rules between the policies of one pipeline: which times cannot be, and which orders are probably not meant.

The order that is advised, outermost first::

    fallback > cache > timeout > retry > circuit_breaker > bulkhead > (timeout of an attempt) > chaos

A retry inside a fallback has done all it can before the fallback is taken; a breaker inside a retry counts attempts,
and its refusal ends the retries at once; a bulkhead inside both is held neither during a backoff nor by a call that
the breaker refuses; chaos stands where the dependency stands. An adaptive limit stands where a bulkhead would; a rate
limit outside of the retry counts calls, inside of it attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .options import Options

_ORDERS: Final[dict[tuple[str, str], str]] = {
    ("circuit_breaker", "retry"): "a call with all its attempts counts as one result, and an open breaker is only "
    "noticed by the next call; put the retry outside",
    ("bulkhead", "retry"): "a place is held while the retry waits; put the retry outside",
    ("adaptive_limit", "retry"): "a place is held while the retry waits, and the wait is taken for slowness; put the "
    "retry outside",
    ("retry", "fallback"): "no error reaches the retry; put the fallback outside",
    ("retry", "cache"): "the cache is asked once per attempt; put the cache outside",
    ("circuit_breaker", "fallback"): "no error reaches the breaker; put the fallback outside",
    (
        "circuit_breaker",
        "cache",
    ): "hits count as results of the dependency, and an open breaker refuses them too; put the cache outside",
    ("bulkhead", "cache"): "hits wait for a place too; put the cache outside",
    ("adaptive_limit", "cache"): "hits are taken for fast answers of the dependency; put the cache outside",
    ("bulkhead", "circuit_breaker"): "calls wait for a place that an open breaker refuses anyway; put the breaker "
    "outside",
}
"""What goes wrong when the first kind stands somewhere outside of the second."""

_REPEATABLE: Final = frozenset({"timeout"})
_SLOW: Final = "slow_call_duration_threshold_seconds"


@dataclass(frozen=True, slots=True)
class Member:
    """One policy of a pipeline.

    Attributes:
        name: By which the pipeline names it.
        kind: What it is.
        options: Its options; None when they are wrong, and no rule is asked of them.
    """

    name: str
    kind: str
    options: Options | None

    def value(self, option: str) -> Any:
        """Return an option's value; None when it is not known."""
        return getattr(self.options, option, None)


def find_contradictions(members: Sequence[Member], deadline_seconds: float | None) -> Iterator[str]:
    """Yield a sentence for each pair of policies whose times cannot both be.

    The outermost timeout may exceed the deadline from outside: it is a cap, for calls that come without a deadline.

    Args:
        members: Outermost first.
        deadline_seconds: What every call has at most, from outside of the pipeline; None when that is not known.
    """
    limit = None if deadline_seconds is None else _Limit(deadline_seconds, f"the deadline ({deadline_seconds:g} s)")
    for index, member in enumerate(members):
        seconds = _timeout_of(member)
        if seconds is not None:
            if limit is None or seconds <= limit.seconds:
                limit = _Limit(seconds, f"{member.name} ({seconds:g} s)")
            elif index > 0:
                yield f"{member.name} ({seconds:g} s) must not exceed {limit.name}, which ends the call before"
        if limit is not None and member.kind == "retry" and member.options is not None:
            yield from _retries_that_last_too_long(member, members[index + 1 :], limit)


def find_cautions(members: Sequence[Member]) -> Iterator[str]:
    """Yield a sentence for each order that works and is probably not meant.

    Args:
        members: Outermost first.
    """
    for index, outer in enumerate(members):
        for inner in members[index + 1 :]:
            sentence = _ORDERS.get((outer.kind, inner.kind))
            if outer.kind == inner.kind and outer.kind not in _REPEATABLE:
                sentence = "attempts multiply" if outer.kind == "retry" else "one of a kind is enough"
            if outer.kind == "chaos":
                sentence = f"{inner.name} is not put to the test; put chaos innermost"
            if sentence is not None:
                yield f"{outer.name} stands outside {inner.name}: {sentence}"
    yield from _slowness_that_cannot_be(members)


@dataclass(frozen=True, slots=True)
class _Limit:
    seconds: float
    name: str


def _timeout_of(member: Member) -> float | None:
    seconds = member.value("timeout_seconds") if member.kind == "timeout" else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _retries_that_last_too_long(retry: Member, inside: Sequence[Member], limit: _Limit) -> Iterator[str]:
    attempts, needed = retry.value("max_attempts"), retry.value("minimum_attempt_seconds")
    waits = _longest_waits(retry)
    attempt = min((seconds for member in inside if (seconds := _timeout_of(member)) is not None), default=0.0)
    given = attempt or limit.seconds
    if attempts > 1 and needed > given:
        yield f"{retry.name} begins no attempt with less than {needed:g} s left, but an attempt has {given:g} s"
    if attempts * attempt + waits > limit.seconds:
        tries = f"{attempts} attempts of {attempt:g} s and " if attempt else ""
        yield f"{retry.name} may take {tries}{waits:g} s of waiting between attempts, more than {limit.name}"


def _longest_waits(retry: Member) -> float:
    """Return the sum of the longest waits between the attempts, in seconds: full jitter draws up to each of them."""
    base, cap = retry.value("base_seconds"), retry.value("cap_seconds")
    return float(sum(min(cap, base * 2**wait) for wait in range(retry.value("max_attempts") - 1)))


def _slowness_that_cannot_be(members: Sequence[Member]) -> Iterator[str]:
    """Yield breakers whose calls are cut off before they could be slow."""
    for index, breaker in enumerate(members):
        slow = breaker.value(_SLOW) if breaker.kind == "circuit_breaker" else None
        # Nobody asked for the default, so nobody is told that it never applies.
        if slow is None or slow == getattr(type(breaker.options), _SLOW, None):
            continue
        cuts = [(seconds, m.name) for m in members[index + 1 :] if (seconds := _timeout_of(m)) is not None]
        if cuts and min(cuts)[0] <= slow:
            seconds, name = min(cuts)
            yield (
                f"{breaker.name} calls a call slow after {slow:g} s, but {name} ends it after {seconds:g} s: only "
                "failures are counted"
            )
