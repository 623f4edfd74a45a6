"""The circuit breaker: stops calling what does not answer, and finds out by itself when it does again.

Admission in CLOSED takes no lock: one attribute is read, one instant compared. A result takes one short lock.
Nothing is held while the function runs. What the seven states do is in :mod:`.breaker_visits`, how they follow each
other in :mod:`.breaker_machine`, when it opens in :mod:`.breaker_options`; here is the traffic::

      execute ──▶ admitted by a visit ──▶ function ──▶ recorded by the same visit
                        │                                   │
                        └─▶ CallNotPermittedError           └─▶ late, when another visit has begun meanwhile

Time does its part whenever somebody asks: a call, a result, a look at :attr:`CircuitBreaker.state`. No thread waits.
"""

from __future__ import annotations

import copy
import logging
import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from math import inf, isfinite, nan
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .breaker_machine import StateMachine
from .breaker_options import CircuitBreakerOptions
from .breaker_snapshot import BreakerSnapshot, breaker_figures, take_snapshot
from .breaker_tally import BOUNDS_SECONDS, Tally
from .clock import SYSTEM_CLOCK
from .errors import CallNotPermittedError
from .events import EventBus
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome

if TYPE_CHECKING:
    from .board import Board
    from .breaker_states import State
    from .breaker_visits import Visit
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext
    from .figures import Distribution, Figure

_log = logging.getLogger(__name__)

_LATEST = sys.float_info.max
"""An instant that no clock reaches; beyond it nothing can be added."""

_CODE = "code"
"""Who moved a breaker by hand when no name is given."""


class CircuitBreaker:
    """A policy that refuses calls while a dependency fails or is slow. Thread-safe.

    Args:
        name: For errors, events and metrics.
        options: When it opens and for how long.
        classification: What is a failure.
        clock: Where "now" comes from. One that raises or gives no number stands still for the breaker.
        bus: Who hears of transitions.
        board: What the processes of this host share; None for one on its own.
    """

    Options: ClassVar[type[CircuitBreakerOptions]] = CircuitBreakerOptions

    def __init__(
        self,
        name: str,
        options: CircuitBreakerOptions | None = None,
        *,
        classification: Classification = EVERY_ERROR_FAILS,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
        board: Board | None = None,
    ) -> None:
        self.name = name
        self.options = CircuitBreakerOptions() if options is None else options
        self._classification = classification
        self._judges_results = classification.judges_results
        self._monotonic = clock.monotonic
        self._last_now = 0.0
        self._slow_after = self.options.slow_call_duration_threshold_seconds
        self._last_failure: Exception | None = None
        self._tally = Tally(name)
        self._machine = StateMachine(name, self.options, self._now(), bus=bus or EventBus(), board=board)
        self._lock = self._machine.lock

    @classmethod
    def build(cls, options: CircuitBreakerOptions, context: PolicyContext) -> Self:
        """Return a breaker for a pipeline; see :class:`.context.PolicyKind`."""
        return cls(
            context.name,
            options,
            classification=context.classification,
            clock=context.clock,
            bus=context.bus,
            board=context.board,
        )

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call, unless the breaker does not let it through.

        Raises:
            CallNotPermittedError: It did not.
        """
        return self.link(proceed)(call)

    def link(self, proceed: Proceed) -> Proceed:  # noqa: C901, PLR0915  # one frame, written out for its speed
        """Return :meth:`execute` with its second argument given; see :class:`.call.Linkable`."""
        machine, monotonic, judges_results = self._machine, self._monotonic, self._judges_results
        name, count_refusal = self.name, self._tally.not_permitted.add
        lock, tally, successful, slow_after = self._lock, self._tally, self._tally.successful, self._slow_after

        def guarded(call: Call[Any]) -> Any:  # noqa: C901, PLR0912  # one frame, for its speed
            visit = machine.visit
            try:
                began = monotonic()
                is_free = began < visit.due
            except Exception:  # noqa: BLE001  # whatever a clock raises or gives, _admit knows what to do
                began, is_free = nan, False
            if is_free:
                running = visit.running
                # A call that is in flight already comes again when a policy inside runs it through here once more.
                key = call if call not in running else object()
                running[key] = began
            else:
                if -_LATEST < began < _LATEST and began < visit.refuses_until:
                    count_refusal()
                    raise CallNotPermittedError(name, visit.word, visit.ends_at - began) from self._last_failure
                key = object()
                try:
                    visit, began = self._admit(key)
                except BaseException:
                    machine.visit.running.pop(key, None)  # where an interrupt came on the way back
                    raise
                running = visit.running
            try:
                result = proceed(call)
                if judges_results:
                    self._returned(visit, key, began, result)
                    return result
                # The usual case, written out, which saves a tenth: one more quick success while the window is full of
                # them changes counts only. A failure that comes to the window meanwhile has come after this call.
                window = visit.window
                if window is not None and window.calm:
                    try:
                        now = monotonic()
                        seconds = now - began
                    except Exception:  # noqa: BLE001  # the call has its result; _record knows what to do
                        now = seconds = nan
                    if 0.0 <= seconds <= slow_after and now < visit.due:
                        with lock:
                            if machine.visit is visit and running.pop(key, None) is not None:
                                successful[bisect_left(BOUNDS_SECONDS, seconds)] += 1
                                tally.successful_seconds += seconds
                                return result
                self._record(visit, key, began, False)
            except BaseException as error:
                try:
                    if key in running:  # not settled: the function raised, or an interrupt came in between
                        self._raised(visit, key, began, error)
                finally:
                    running.pop(key, None)  # where an interrupt came in between there, too
                raise
            return result

        return guarded

    def acquire(self) -> Permit:
        """Return a permit for one call that is made elsewhere; it has to be settled.

        Raises:
            CallNotPermittedError: The breaker lets no call through.
        """
        permit = Permit(self)
        try:
            permit._visit, permit._began = self._admit(permit)  # noqa: SLF001  # two parts of one thing
        except BaseException:
            self._machine.visit.running.pop(permit, None)  # as in link()
            raise
        return permit

    def try_acquire(self) -> Permit | None:
        """Return a permit, or None when the breaker lets no call through; the refusal is counted."""
        try:
            return self.acquire()
        except CallNotPermittedError:
            return None

    @property
    def state(self) -> State:
        """The state now."""
        now = self._now()
        with self._lock:
            self._machine.attend(now)
            return self._machine.visit.state

    def snapshot(self) -> BreakerSnapshot:
        """Return how it stands now."""
        now = self._now()
        with self._lock:
            self._machine.attend(now)
            return take_snapshot(self.name, self._machine, self._tally, now)

    def figures(self) -> Iterator[Figure | Distribution]:
        """Return its metrics; see :class:`.figures.Measured`."""
        snapshot = self.snapshot()
        with self._lock:
            counted = [*self._tally.figures()]
            transitions = dict(self._machine.transitions)
        yield from counted
        yield from breaker_figures(snapshot, transitions)

    def transition_to(self, target: State, *, by: str = _CODE, reason: str = "") -> None:
        """Move it by hand; to the state that it is in already: nothing happens.

        Args:
            target: Where to.
            by: Who wants it, for the log.
            reason: Why, for the log.

        Raises:
            IllegalTransitionError: It cannot be moved there from where it is.
        """
        now = self._now()
        with self._lock:
            self._machine.move_to(target, now, by=by, reason=reason)

    def open_for(self, seconds: float, *, by: str = _CODE, reason: str = "") -> None:
        """Open it for so many seconds, whatever its own wait is; see :meth:`open_until`.

        Raises:
            IllegalTransitionError: It cannot be opened from where it is.
            ValueError: The seconds are no finite number above 0.
        """
        if not 0 < seconds <= _LATEST:
            message = f"a breaker is opened for a finite time above 0 s, not for {seconds} s; FORCED_OPEN has no end"
            raise ValueError(message)
        self.open_until(self._now() + seconds, by=by, reason=reason)

    def open_until(self, instant: float, *, by: str = _CODE, reason: str = "") -> None:
        """Open it until a monotonic instant. The count of openings does not rise.

        Raises:
            IllegalTransitionError: It cannot be opened from where it is.
            ValueError: The instant is no finite number.
        """
        if not isfinite(instant):
            message = "a breaker is opened until a finite instant; FORCED_OPEN has no end"
            raise ValueError(message)
        now = self._now()
        with self._lock:
            self._machine.open_until(instant, now, by=by, reason=reason)

    def reset(self, *, by: str = _CODE, reason: str = "") -> None:
        """Close it from whatever state, with fresh figures."""
        now = self._now()
        with self._lock:
            self._machine.reset(now, by=by, reason=reason)
            self._last_failure = None

    def _admit(self, key: object) -> tuple[Visit, float]:
        """Ask the state machine; return who admitted the call that is in flight by this key, and when.

        Raises:
            CallNotPermittedError: Nobody did.
        """
        now = self._now()
        with self._lock:
            visit = self._machine.admit(now)
            if visit is not None:
                visit.running[key] = now
                return visit, now
            refusing = self._machine.visit
        self._tally.not_permitted.add()
        raise CallNotPermittedError(self.name, refusing.word, refusing.retry_at - now) from self._last_failure

    def _returned(self, visit: Visit, key: object, began: float, result: Any) -> None:
        try:
            outcome = self._classification.of_result(result)
        except Exception:  # noqa: BLE001  # a log handler's that is told of a rule's mistake, or a subclass's
            outcome = Outcome.IGNORED
        except BaseException:  # an interrupt
            self._give_back(visit, key)
            raise
        if outcome is Outcome.IGNORED:
            self._give_back(visit, key, ignored=True)
            return
        failed = outcome is Outcome.FAILURE
        now_on = self._record(visit, key, began, failed)
        if failed and now_on is not None:
            self._follow_order(now_on, result)

    def _raised(self, visit: Visit, key: object, began: float, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._give_back(visit, key)
            return
        try:
            outcome = self._classification.of_error(error)
        except Exception:  # noqa: BLE001  # a classifier that raises says nothing of the call
            outcome = Outcome.IGNORED
        except BaseException:  # an interrupt is no outcome
            self._give_back(visit, key)
            raise
        if outcome is Outcome.IGNORED:
            self._give_back(visit, key, ignored=True)
            return
        failed = outcome is Outcome.FAILURE
        try:
            if failed and key in visit.running and self._machine.visit is visit:
                self._last_failure = _without_frames(error)  # first, for those who are refused because of it
        finally:
            now_on = self._record(visit, key, began, failed)
        if failed and now_on is not None:
            self._follow_order(now_on, error)

    def _record(self, visit: Visit, key: object, began: float, failed: bool) -> Visit | None:  # noqa: FBT001  # slow by keyword
        """Count a result; return the visit that is on with it, None when it was counted before or comes late."""
        try:
            now = self._monotonic()
            seconds = now - began
        except Exception:  # noqa: BLE001  # the call has its result; the clock must not take it away
            now = seconds = nan
        if 0.0 <= seconds <= self._slow_after and -_LATEST < now < _LATEST:
            slow = False
        else:
            now, seconds, slow = self._unusual(now, began, seconds)
        machine, tally = self._machine, self._tally
        with self._lock:
            if visit.running.pop(key, None) is None:
                return None
            if not now < visit.due:
                machine.attend(now)
            if machine.visit is not visit:
                machine.attend(now)
                tally.late += 1
                return None
            bucket = bisect_left(BOUNDS_SECONDS, seconds)
            if failed:
                tally.failed[bucket] += 1
                tally.failed_seconds += seconds
            else:
                tally.successful[bucket] += 1
                tally.successful_seconds += seconds
            move = visit.record(now, failed, slow)
            if slow or move is not None:
                machine.follow(visit, move, now)
            return machine.visit

    def _unusual(self, now: float, began: float, seconds: float) -> tuple[float, float, bool]:
        """Return end, duration and slowness of a call that was slow, or whose clock went wrong meanwhile."""
        if 0.0 <= seconds < inf and -_LATEST < now < _LATEST:
            return now, seconds, True
        if -_LATEST < began < _LATEST:
            self._last_now = max(self._last_now, began)
        return self._now(), 0.0, False

    def _give_back(self, visit: Visit, key: object, *, ignored: bool = False) -> None:
        """Take the place back of a call that came to no result."""
        now = self._now()
        with self._lock:
            if visit.running.pop(key, None) is None:
                return
            self._machine.attend(now)
            self._tally.ignored += ignored
            if self._machine.visit is visit:
                visit.give_back()

    def _follow_order(self, now_on: Visit, said: Any) -> None:
        """Open for as long as a failure says, where that is asked for."""
        if not self.options.open_on_retry_after:
            return
        seconds = None
        with suppress(Exception):  # as in _returned()
            seconds = self._classification.retry_after(said)
        if seconds is None:
            return
        seconds = min(seconds, self.options.max_ordered_open_seconds)
        now = self._now()
        with self._lock:
            self._machine.order_open(now_on, now + seconds, now)

    def _now(self) -> float:
        """Return the clock's time; where it gives none, the last one it gave."""
        try:
            now = float(self._monotonic())
        except Exception:  # noqa: BLE001  # whatever a clock raises or gives
            with suppress(Exception):  # a log handler's mistake is its own
                _log.exception("the clock of %s gives no time; its time stands still", self.name)
            return self._last_now
        if not isfinite(now):
            return self._last_now
        self._last_now = now
        return now


class Permit:
    """Leave for one call that is made outside of :meth:`CircuitBreaker.execute`. Settle it exactly once.

    A context manager: leaving the block without an exception is a success, with one it is judged like any error.
    What comes after the first settling is ignored.
    """

    __slots__ = ("_began", "_breaker", "_visit")

    _visit: Visit
    _began: float

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker  # which says the rest when it has admitted the call

    def succeed(self, result: Any = None) -> None:
        """Settle it with a returned value, which is judged by the classification."""
        self._breaker._returned(self._visit, self, self._began, result)  # noqa: SLF001  # two parts of one thing

    def fail(self, error: BaseException) -> None:
        """Settle it with an error, which is judged by the classification."""
        self._breaker._raised(self._visit, self, self._began, error)  # noqa: SLF001  # two parts of one thing

    def release(self) -> None:
        """Settle it without a result: nothing is recorded, the place is free again."""
        self._breaker._give_back(self._visit, self)  # noqa: SLF001  # two parts of one thing

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle it."""
        try:
            if error is None:
                self.succeed()
            else:
                self.fail(error)
        finally:
            self._visit.running.pop(self, None)  # where an interrupt came in between


def _without_frames(error: Exception) -> Exception | None:
    """Return a copy without its traceback: the frames of a failed call may hold a whole photo.

    None where there can be no copy, and for groups, whose members would bring their frames along.
    """
    if isinstance(error, BaseExceptionGroup):
        return None
    try:
        copied: Any = copy.copy(error)
    except Exception:  # noqa: BLE001  # an exception with an unusual constructor
        return None
    return copied if isinstance(copied, Exception) and copied is not error else None
