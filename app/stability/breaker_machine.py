"""The state machine of a circuit breaker: which visit is on, what ends it, and what other processes decided.

::

      a result ──▶ record ─┐
      a call   ──▶ admit  ─┼─▶ attend: look at the board, let time pass ─▶ the visit answers ─▶ the next visit
      a look   ──▶ attend ─┘

With a board every decision is written there first; when another process was faster, its decision is adopted
instead. Operators' decisions are written until they hold. A board that is lost answers nothing, and then
this process decides for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from .board import CheckedBoard, Decision
from .breaker_events import BreakerReset, StateTransitioned, ThresholdCrossed
from .breaker_states import State, can_move
from .breaker_visits import Closed, Disabled, ForcedHalfOpen, ForcedOpen, HalfOpen, MetricsOnly, Move, Open, Visit
from .errors import IllegalTransitionError
from .locks import after_fork, make_lock
from .probes import HostProbes, LocalProbes, ProbeLedger

if TYPE_CHECKING:
    from .board import Board
    from .breaker_options import CircuitBreakerOptions
    from .events import Event, EventBus

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
"""How often a breaker that is in use looks at the board."""

BREAKER: Final = "breaker"
"""Who decides when no operator does."""

_BY_RESULTS = frozenset({State.CLOSED, State.OPEN, State.HALF_OPEN})
_ENDING = frozenset({State.OPEN, State.HALF_OPEN})
_WAIT_SECONDS_MAX = 86_400.0
_WAIT_SECONDS_INSTEAD = 60.0
_DECIDING_TRIES = 5
_BY_HAND = frozenset({"manual", "reset"})


class StateMachine:
    """The state of one breaker. Hold :attr:`lock` around every method; :attr:`visit` may be read without it.

    Args:
        name: Of the breaker.
        options: When it opens and for how long.
        now: Monotonic seconds.
        bus: Who hears of transitions.
        board: What the processes of this host share; None for one on its own.

    Attributes:
        lock: Short: it is never held while a guarded function runs.
        visit: The stay that is on.
        attempt: How often it has opened since it was last closed.
        transitions: How often each pair of states followed each other by a decision of this process.
    """

    def __init__(
        self, name: str, options: CircuitBreakerOptions, now: float, *, bus: EventBus, board: Board | None
    ) -> None:
        self.lock = make_lock()
        self._is_asking = False
        self.attempt = 0
        self.transitions: dict[tuple[State, State], int] = {}
        self._name = name
        self._options = options
        self._bus = bus
        self._board = None if board is None else CheckedBoard(board)
        self._board_era = 0
        self._known: tuple[int, str, float] | None = None
        self._look_at = inf if board is None else now
        self.visit: Visit = Closed(options, now)
        self._cap_due(self.visit)
        after_fork(self._begin_in_child)

    def attend(self, now: float) -> None:
        """Adopt what others decided, and let time do its part."""
        if now >= self._look_at:
            self._look(now)
        visit = self.visit
        self.follow(visit, visit.tick(now), now)

    def admit(self, now: float) -> Visit | None:
        """Return the visit that admits a call, None when it is refused."""
        if self._board is not None and isinstance(self.visit, HalfOpen):
            self._look_at = now  # another process may have decided: its trial calls end ours
        self.attend(now)
        if isinstance(self.visit, Open) and self.visit.wait_is_over(now):
            self._enter(State.HALF_OPEN, now, "wait_over")
        visit = self.visit
        return visit if visit.admit(now) else None

    def follow(self, visit: Visit, move: Move | None, now: float) -> None:
        """Go where a visit has led, if anywhere, unless whoever interrupted it has ended it meanwhile."""
        if move is not None and self.visit is visit:
            self._follow(move, now)
        self._cap_due(self.visit)  # the visit may have set a time of its own

    def move_to(self, target: State, now: float, *, by: str, reason: str) -> None:
        """Do what an operator asks; to the state that it is in already: nothing.

        Raises:
            IllegalTransitionError: It cannot be moved there from where it is.
        """
        self._attend_closely(now)
        if self.visit.state is not target:
            self._check(target)
            self._enter(target, now, "manual", by=by, reason=reason)

    def open_until(self, until: float, now: float, *, by: str, reason: str) -> None:
        """Open for a time that an operator has chosen; the count of openings does not rise.

        Raises:
            IllegalTransitionError: It cannot be opened from where it is.
        """
        self._attend_closely(now)
        self._check(State.OPEN)
        self._enter(State.OPEN, now, "manual", until=until, by=by, reason=reason)

    def order_open(self, visit: Visit, until: float, now: float) -> None:
        """Open for a time that a result of a visit has asked for; the count of openings does not rise.

        Args:
            visit: The one that has been on since the result was counted. That may be the opening to which it has led,
                for which what it says is the better wait; when another one has followed, nothing happens.
            until: When the wait is over.
            now: Monotonic seconds.
        """
        if self.visit is visit and visit.state in _BY_RESULTS:
            self._enter(State.OPEN, now, "ordered", until=until)

    def reset(self, now: float, *, by: str, reason: str) -> None:
        """Close it from whatever state, with fresh figures."""
        self._attend_closely(now)
        self._enter(State.CLOSED, now, "reset", by=by, reason=reason)

    def _attend_closely(self, now: float) -> None:
        """Attend with a look at the board whenever the last one was: an operator acts on what holds."""
        if self._board is not None:
            self._look_at = now
        self.attend(now)

    def _check(self, target: State) -> None:
        source = self.visit.state
        if not can_move(source, target):
            raise IllegalTransitionError(self._name, source.value, target.value)

    def _follow(self, move: Move, now: float) -> None:
        if move.target is not self.visit.state:
            self._enter(move.target, now, move.cause, rate=move.rate)
            return
        telling: Move | None = move  # METRICS_ONLY stays and tells
        while telling is not None:
            self._bus.publish(ThresholdCrossed(name=self._name, cause=telling.cause, rate=telling.rate or 0.0))
            telling = self.visit.more()

    def _enter(
        self,
        target: State,
        now: float,
        cause: str,
        *,
        rate: float | None = None,
        until: float | None = None,
        by: str = BREAKER,
        reason: str = "",
    ) -> None:
        """Decide for a state and begin it, when it is known until when."""
        if self._is_asking and cause not in _BY_HAND:
            return  # the open wait is being asked for, and whoever it asks uses this breaker: it decides already
        attempt, stay = self.attempt, self.visit
        if target is State.CLOSED:
            attempt = 0
        elif target is State.OPEN and until is None:
            attempt += 1
        decision = Decision(0, target.value, attempt, inf if until is None else until, by, reason)
        if until is None:
            try:
                decision = replace(decision, until=self._end_of(target, attempt, now))
            except BaseException:  # an interrupt in the function that says the wait; the decision stands
                if self.visit is stay:
                    instead = now + _WAIT_SECONDS_INSTEAD if target in _ENDING else inf
                    self._decide(target, now, cause, rate, replace(decision, until=instead))
                raise
        if self.visit is stay:  # else that function has moved the breaker itself
            self._decide(target, now, cause, rate, decision)

    def _decide(self, target: State, now: float, cause: str, rate: float | None, decision: Decision) -> None:
        """Decide for a state, here and on the board, and begin it; or begin what the board says instead."""
        by, reason = decision.by, decision.reason
        holds, standing = self._write(replace(decision, era=self._board_era + 1))
        if standing is not None and not holds:
            self._adopt(standing, now)
            return
        source = self.visit.state
        self._begin(target, now, decision.attempt, decision.until, shared=holds)
        if standing is not None:
            self._known = _sense(standing)
        event: Event
        if cause == "reset":
            event = BreakerReset(name=self._name, by=by, reason=reason)
        else:
            event = StateTransitioned(
                name=self._name, source=source, target=target, cause=cause, rate=rate, by=by, reason=reason
            )
        if source is not target or cause == "reset":
            self.transitions[source, target] = self.transitions.get((source, target), 0) + 1
            self._bus.publish(event)
        elif by != BREAKER:  # an operator has given an opening another end
            self._bus.publish(event)

    def _write(self, mine: Decision) -> tuple[bool, Decision | None]:
        """Put a decision on the board; return whether it holds there, and what does: None when there is no board."""
        if self._board is None:
            return False, None
        standing = self._board.decide(self._name, mine)
        for _ in range(_DECIDING_TRIES):
            if standing is None or _sense(standing) == _sense(mine) or mine.by == BREAKER:
                break
            # What an operator says holds, whatever a breaker decided a moment before.
            mine = replace(mine, era=standing.era + 1)
            standing = self._board.decide(self._name, mine)
        if standing is None:
            return False, None
        self._board_era = standing.era
        return _sense(standing) == _sense(mine), standing

    def _look(self, now: float) -> None:
        assert self._board is not None  # noqa: S101  # without one there is no time to look
        self._look_at = now + LOOK_SECONDS
        standing = self._board.read(self._name)
        if standing is not None and _sense(standing) != self._known:
            self._adopt(standing, now)

    def _adopt(self, standing: Decision, now: float) -> None:
        target, until = State(standing.state), standing.until
        self._board_era = standing.era
        if target is State.HALF_OPEN and until == inf:  # lost permits would keep it there for ever
            until = self._end_of(target, standing.attempt, now)
        source = self.visit.state
        self._begin(target, now, standing.attempt, until, shared=True)
        self._known = _sense(standing)  # last: what is interrupted before is adopted at the next look
        has_another_end = target is State.OPEN and standing.by != BREAKER
        if source is not target or has_another_end:
            event = StateTransitioned(
                name=self._name,
                source=source,
                target=target,
                cause="adopted",
                by=standing.by,
                reason=standing.reason,
            )
            self._bus.publish(event)

    def _begin(self, target: State, now: float, attempt: int, until: float, *, shared: bool) -> None:
        visit = self._visit(target, now, until, shared=shared)
        self._cap_due(visit)
        self.attempt, self.visit = attempt, visit

    def _visit(self, target: State, now: float, until: float, *, shared: bool) -> Visit:
        options, before = self._options, self.visit
        automatic = options.automatic_transition_from_open_to_half_open
        makers: dict[State, Callable[[], Visit]] = {
            State.CLOSED: lambda: Closed(options, now),
            State.OPEN: lambda: Open(before, until, automatic=automatic),
            State.HALF_OPEN: lambda: HalfOpen(options, until, self._ledger(shared=shared)),
            State.DISABLED: Disabled,
            State.METRICS_ONLY: lambda: MetricsOnly(options, now),
            State.FORCED_OPEN: lambda: ForcedOpen(before),
            State.FORCED_HALF_OPEN: lambda: ForcedHalfOpen(options),
        }
        return makers[target]()

    def _ledger(self, *, shared: bool) -> ProbeLedger:
        if shared and self._board is not None:
            return HostProbes(self._board, self._name, self._board_era)
        return LocalProbes()

    def _end_of(self, target: State, attempt: int, now: float) -> float:
        if target is State.OPEN:
            return now + self._wait_seconds(attempt)
        if target is State.HALF_OPEN:
            limit = self._options.max_wait_duration_in_half_open_state_seconds
            return now + (self._wait_seconds(max(1, attempt)) if limit is None else limit)
        return inf

    def _wait_seconds(self, attempt: int) -> float:
        wait = self._options.wait_duration_in_open_state_seconds
        if not callable(wait):
            return wait
        if self._is_asking:  # by itself: an operator's opening from within it
            return _WAIT_SECONDS_INSTEAD
        self._is_asking = True
        try:
            return self._asked_wait(wait, attempt)
        finally:
            self._is_asking = False

    def _asked_wait(self, wait: Callable[[int], float], attempt: int) -> float:
        try:
            seconds = float(wait(attempt))
        except Exception:  # noqa: BLE001  # whatever it raises, the breaker has to open
            with suppress(Exception):  # a log handler's mistake is its own
                _log.exception("the open wait of %s raised; %g s instead", self._name, _WAIT_SECONDS_INSTEAD)
            return _WAIT_SECONDS_INSTEAD
        if not 0 < seconds <= _WAIT_SECONDS_MAX:
            with suppress(Exception):  # as above
                _log.error("the open wait of %s is no time; %g s instead", self._name, _WAIT_SECONDS_INSTEAD)
            return _WAIT_SECONDS_INSTEAD
        return seconds

    def _begin_in_child(self) -> None:
        """Put right what the parent's other threads were about, in a forked child."""
        self._is_asking = False
        self.visit.begin_in_child()

    def _cap_due(self, visit: Visit) -> None:
        """Make the visit ask again no later than the next look at the board."""
        look_at = self._look_at
        visit.due = min(visit.due, look_at)
        visit.refuses_until = min(visit.refuses_until, look_at)


def _sense(decision: Decision) -> tuple[int, str, float]:
    """Return what makes two decisions one; a board may cut the words of an operator short."""
    return decision.era, decision.state, decision.until
