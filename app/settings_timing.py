"""The ten timing inequalities: what must hold so that a stop, a slow answer or an idle connection loses no request.

Each has its reason. Symbols, all in seconds: Lq lame duck, I probe interval, U failed probes, To probe timeout,
P propagation, D deregistration delay, R longest request (its deadline), N nginx's quit wait, G graceful timeout,
F flush, B the platform's budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:  # the models import this module's user
    from app.settings import Settings

Key = tuple[str, str]

_GRACE_SECONDS = 2.0  # between the last request's deadline and the end of the graceful stop
_MARGIN_SECONDS = 5.0  # for systemd, between when a program should have ended and when it is killed


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of two sums of settings.

    Attributes:
        number: Of its inequality, 1 to 10; with a letter when the inequality has two comparisons.
        words: What must hold, in the symbols above.
        reason: What is lost otherwise, as a sentence without its full stop.
        change: The setting to change.
        others: The other settings in it.
        left: The changed setting's value, in seconds.
        right: What it is compared with, in seconds.
        relation: How.
        always: Whether it must hold in every profile, not only in production.
    """

    number: str
    words: str
    reason: str
    change: Key
    others: tuple[Key, ...]
    left: Callable[[Settings], float]
    right: Callable[[Settings], float]
    relation: Literal[">=", "<=", "<", ">"] = ">="
    always: bool = False

    def holds(self, settings: Settings) -> bool:
        """Return whether it is so."""
        left, right = self.left(settings), self.right(settings)
        match self.relation:
            case ">=":
                return left >= right
            case "<=":
                return left <= right
            case "<":
                return left < right
            case ">":
                return left > right

    def bound(self, settings: Settings) -> str:
        """Return what the setting must be, in words: ``at least 17``."""
        right = self.right(settings)
        match self.relation:
            case ">=":
                return f"at least {right:g}"
            case "<=":
                return f"at most {right:g}"
            case "<":
                return f"at most {math.ceil(right) - 1}"
            case ">":
                return f"at least {math.floor(right) + 1}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A comparison with the numbers of some settings.

    Attributes:
        comparison: Which.
        left: Seconds.
        right: Seconds.
        holds: Whether it is so.
        bound: What the setting to change must be, in words.
    """

    comparison: Comparison
    left: float
    right: float
    holds: bool
    bound: str

    def to_json(self) -> dict[str, object]:
        """Return it for a script."""
        return {
            "number": self.comparison.number,
            "words": self.comparison.words,
            "holds": self.holds,
            "left": self.left,
            "relation": self.comparison.relation,
            "right": self.right,
            "change": list(self.comparison.change),
            "bound": self.bound,
        }


COMPARISONS: Final = (
    Comparison(
        "1",
        "Lq >= I * U + To + P",
        "or the balancer sends requests to a server that listens no more",
        ("server", "drain_lame_duck_seconds"),
        (
            ("balancer", "probe_interval_seconds"),
            ("balancer", "unhealthy_threshold"),
            ("balancer", "probe_timeout_seconds"),
            ("balancer", "propagation_seconds"),
        ),
        lambda s: s.server.drain_lame_duck_seconds,
        lambda s: _notice_seconds(s),  # noqa: PLW0108  # it is defined below
    ),
    Comparison(
        "2",
        "D >= R",
        "or the balancer cuts off requests of an instance that it took out",
        ("balancer", "deregistration_delay_seconds"),
        (("server", "request_deadline_seconds"),),
        lambda s: s.balancer.deregistration_delay_seconds,
        lambda s: s.server.request_deadline_seconds,
    ),
    Comparison(
        "3a",
        "N >= R",
        "or nginx cuts off requests when it stops",
        ("edge", "quit_wait_seconds"),
        (("server", "request_deadline_seconds"),),
        lambda s: s.edge.quit_wait_seconds,
        lambda s: s.server.request_deadline_seconds,
    ),
    Comparison(
        "3b",
        "nginx's TimeoutStopSec >= N + 5",
        "or systemd kills nginx while it waits",
        ("edge", "stop_timeout_seconds"),
        (("edge", "quit_wait_seconds"),),
        lambda s: s.edge.stop_timeout_seconds,
        lambda s: s.edge.quit_wait_seconds + _MARGIN_SECONDS,
    ),
    Comparison(
        "4",
        "G >= R + 2",
        "or a stop cuts off requests",
        ("server", "graceful_timeout_seconds"),
        (("server", "request_deadline_seconds"),),
        lambda s: s.server.graceful_timeout_seconds,
        lambda s: s.server.request_deadline_seconds + _GRACE_SECONDS,
        always=True,
    ),
    Comparison(
        "5",
        "the server's TimeoutStopSec >= Lq + 2 * G + F + 5",
        "or systemd kills the server while it drains",
        ("server", "stop_timeout_seconds"),
        (
            ("server", "drain_lame_duck_seconds"),
            ("server", "graceful_timeout_seconds"),
            ("server", "flush_seconds"),
        ),
        lambda s: s.server.stop_timeout_seconds,
        lambda s: (
            s.server.drain_lame_duck_seconds
            + 2 * s.server.graceful_timeout_seconds
            + s.server.flush_seconds
            + _MARGIN_SECONDS
        ),
    ),
    Comparison(
        "6",
        "the drain unit's TimeoutStopSec >= Lq + 5",
        "or systemd ends the drain before the balancer has noticed",
        ("server", "drain_stop_timeout_seconds"),
        (("server", "drain_lame_duck_seconds"),),
        lambda s: s.server.drain_stop_timeout_seconds,
        lambda s: s.server.drain_lame_duck_seconds + _MARGIN_SECONDS,
    ),
    Comparison(
        "7",
        "B >= Lq + N + G + F",
        "or the platform cuts the instance off while it drains",
        ("balancer", "platform_budget_seconds"),
        (
            ("server", "drain_lame_duck_seconds"),
            ("edge", "quit_wait_seconds"),
            ("server", "graceful_timeout_seconds"),
            ("server", "flush_seconds"),
        ),
        lambda s: s.balancer.platform_budget_seconds,
        lambda s: (
            s.server.drain_lame_duck_seconds
            + s.edge.quit_wait_seconds
            + s.server.graceful_timeout_seconds
            + s.server.flush_seconds
        ),
    ),
    Comparison(
        "8",
        "nginx's keep-alive > the balancer's idle timeout",
        "or nginx closes a connection that the balancer is about to use",
        ("edge", "keep_alive_seconds"),
        (("balancer", "idle_timeout_seconds"),),
        lambda s: s.edge.keep_alive_seconds,
        lambda s: s.balancer.idle_timeout_seconds,
        ">",
    ),
    Comparison(
        "9",
        "nginx's keep-alive to the server < the server's keep-alive",
        "or the server closes a connection that nginx is about to use",
        ("edge", "upstream_keep_alive_seconds"),
        (("server", "keep_alive_seconds"),),
        lambda s: s.edge.upstream_keep_alive_seconds,
        lambda s: s.server.keep_alive_seconds,
        "<",
    ),
    Comparison(
        "10a",
        "nginx's read timeout > R",
        "or nginx gives up on an answer that is still in time",
        ("edge", "read_timeout_seconds"),
        (("server", "request_deadline_seconds"),),
        lambda s: s.edge.read_timeout_seconds,
        lambda s: s.server.request_deadline_seconds,
        ">",
    ),
    Comparison(
        "10b",
        "nginx's read timeout < the balancer's idle timeout",
        "or the balancer gives up before nginx can answer",
        ("edge", "read_timeout_seconds"),
        (("balancer", "idle_timeout_seconds"),),
        lambda s: s.edge.read_timeout_seconds,
        lambda s: s.balancer.idle_timeout_seconds,
        "<",
    ),
)
"""All comparisons, in the order of their numbers."""


def judge_times(settings: Settings) -> tuple[Judgement, ...]:
    """Judge every comparison, whatever the profile."""
    return tuple(
        Judgement(each, each.left(settings), each.right(settings), each.holds(settings), each.bound(settings))
        for each in COMPARISONS
    )


def format_times(judged: Iterable[Judgement]) -> str:
    """Return a line per comparison: whether it holds, its words, its numbers."""
    rows = [
        (
            "ok" if each.holds else "no",
            each.comparison.number,
            each.comparison.words,
            f"{each.left:g} {each.comparison.relation} {each.right:g}",
        )
        for each in judged
    ]
    width = max(len(words) for _, _, words, _ in rows)
    return "\n".join(f"  {state:2}  {number:3}  {words:{width}}  {numbers}" for state, number, words, numbers in rows)


def find_violations(settings: Settings) -> Iterator[Judgement]:
    """Find the comparisons that must hold in the profile of these settings, and do not."""
    strict = settings.profile == "production"
    for judgement in judge_times(settings):
        if not judgement.holds and (strict or judgement.comparison.always):
            yield judgement


def _notice_seconds(settings: Settings) -> float:
    """Return how long a balancer may take to send nothing more to an instance that is not ready."""
    balancer = settings.balancer
    probes = balancer.probe_interval_seconds * balancer.unhealthy_threshold
    return probes + balancer.probe_timeout_seconds + balancer.propagation_seconds
