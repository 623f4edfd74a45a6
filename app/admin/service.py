"""What operators do with breakers and modes; each change and each refusal is logged with who, why, before, after."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from app.errors import ConflictError, NotFoundError, UnavailableError, ValidationFailedError
from app.ops.host_board import READ_ONLY, BoardEntry, HostBoard
from app.ops.mode_reasons import OperatorWord
from app.ops.modes import Mode, Modes
from app.stability import BreakerSnapshot, IllegalTransitionError, State
from app.stability.breaker_states import can_move

_log = logging.getLogger(__name__)


class OperatedBreaker(Protocol):
    """What is asked of a :class:`app.stability.CircuitBreaker`."""

    @property
    def state(self) -> State:
        """The state now."""
        ...

    def snapshot(self) -> BreakerSnapshot:
        """Return how it stands now."""
        ...

    def transition_to(self, target: State, *, by: str, reason: str) -> None:
        """Move it by hand."""
        ...

    def open_for(self, seconds: float, *, by: str, reason: str) -> None:
        """Open it for so many seconds."""
        ...


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """How a breaker stands.

    Attributes:
        snapshot: In this process, which follows the host's board; its figures are no worker's.
        entry: What the host's board says of it.
        targets: Where it can be moved to.
        is_shared: Whether the workers of the host follow.
    """

    snapshot: BreakerSnapshot
    entry: BoardEntry
    targets: tuple[State, ...]
    is_shared: bool


class BreakerService:
    """The breakers of this process and, through the board, of its host. Thread-safe.

    Args:
        breakers: By name.
        board: What the processes of this host share; None for a process on its own.
    """

    def __init__(self, breakers: Mapping[str, OperatedBreaker], board: HostBoard | None) -> None:
        self._breakers = breakers
        self._board = board

    def list_all(self) -> list[BreakerRecord]:
        """Return all, by name."""
        entries = self._entries()
        return [self._record(breaker, entries) for _, breaker in sorted(self._breakers.items())]

    def show(self, name: str) -> BreakerRecord:
        """Return one.

        Raises:
            NotFoundError: There is none of this name.
        """
        return self._record(self._find(name), self._entries())

    def change(
        self, name: str, state: str, *, for_seconds: float | None = None, by: str, reason: str
    ) -> BreakerRecord:
        """Move one to another state; to the one that it is in already: nothing happens.

        Args:
            name: Of the breaker.
            state: Where to; one of the values of :class:`app.stability.State`.
            for_seconds: With ``open``: for how long. From ``open`` too: the new time counts.
            by: Who wants it.
            reason: Why.

        Raises:
            NotFoundError: There is no such breaker.
            ValidationFailedError: The state does not end after a given time.
            ConflictError: It cannot go there from where it is.
        """
        facts = {"breaker": name, "wanted": state, "for_seconds": for_seconds, "by": by, "reason": reason}
        try:
            breaker = self._find(name)
            before = breaker.state
            facts["before"] = before.value
            self._move(breaker, State(state), for_seconds, by=by, reason=reason)
        except (NotFoundError, ValidationFailedError, ConflictError) as error:
            _log.warning("a breaker was not set", extra={**facts, "refusal": error.detail})
            raise
        record = self.show(name)
        _log.warning("a breaker was set", extra={**facts, "after": record.snapshot.state.value})
        return record

    def _move(
        self, breaker: OperatedBreaker, target: State, for_seconds: float | None, *, by: str, reason: str
    ) -> None:
        if for_seconds is not None and target is not State.OPEN:
            mistake = {"pointer": "/for_seconds", "detail": "only open ends after a time; leave it out"}
            raise ValidationFailedError("Some fields are wrong.", [mistake])
        try:
            if for_seconds is None:
                breaker.transition_to(target, by=by, reason=reason)
            else:
                breaker.open_for(for_seconds, by=by, reason=reason)
        except IllegalTransitionError as error:
            reachable = ", ".join(state.value for state in _targets_of(State(error.source)))
            raise ConflictError(
                f"It is {error.source} and cannot go to {error.target} from there, only to: {reachable}."
            ) from error

    def _find(self, name: str) -> OperatedBreaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            raise NotFoundError(
                f"There is no such breaker. There are: {', '.join(sorted(self._breakers)) or 'none'}."
            )
        return breaker

    def _entries(self) -> Mapping[str, BoardEntry]:
        return (self._board.entries() or {}) if self._board is not None else {}

    def _record(self, breaker: OperatedBreaker, entries: Mapping[str, BoardEntry]) -> BreakerRecord:
        snapshot = breaker.snapshot()
        entry = entries.get(snapshot.name, BoardEntry())
        if entry.decision is not None and entry.decision.state != snapshot.state.value:
            entry = (
                BoardEntry()
            )  # this process has no board, or has not looked yet: who and why are not about its state
        is_shared = self._board is not None and self._board.works
        return BreakerRecord(snapshot, entry, _targets_of(snapshot.state), is_shared)


def _targets_of(source: State) -> tuple[State, ...]:
    return tuple(target for target in State if target is not source and can_move(source, target))


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """How modes stand.

    Attributes:
        mode: What holds.
        is_shared: Whether what is said of it holds in all workers of the host.
    """

    mode: Mode
    is_shared: bool


class ModeService:
    """The mode of this host, and what operators say of it. Thread-safe.

    Args:
        modes: What holds here.
        word: What operators have said.
        board: Of modes, of this host; None for a process on its own.
    """

    def __init__(self, modes: Modes, word: OperatorWord, board: HostBoard | None) -> None:
        self._modes = modes
        self._word = word
        self._board = board

    def show(self) -> ModeRecord:
        """Return what holds now."""
        return ModeRecord(self._modes.current(), self._board is not None and self._board.works)

    def change(self, mode: str, *, for_seconds: float | None, by: str, reason: str) -> ModeRecord:
        """Say which mode is to hold; what the server finds by itself holds besides.

        Args:
            mode: ``read_only``, or ``normal`` to take back what was said.
            for_seconds: With ``read_only``: for how long.
            by: Who says so.
            reason: Why.

        Raises:
            ValidationFailedError: What is taken back does not end after a given time.
            UnavailableError: The shared page is lost; nothing was changed.
        """
        facts = {"wanted": mode, "for_seconds": for_seconds, "by": by, "reason": reason}
        try:
            before = self._say(mode, for_seconds, by=by, reason=reason)
        except (ValidationFailedError, UnavailableError) as error:
            _log.warning("a mode was not set", extra={**facts, "refusal": error.detail})
            raise
        record = self.show()
        _log.warning("a mode was set", extra={**facts, "before": before, "after": record.mode.name})
        return record

    def _say(self, mode: str, for_seconds: float | None, *, by: str, reason: str) -> str:
        if for_seconds is not None and mode != READ_ONLY:
            mistake = {"pointer": "/for_seconds", "detail": "only read_only ends after a time; leave it out"}
            raise ValidationFailedError("Some fields are wrong.", [mistake])
        return self._word.say(mode, seconds=for_seconds, by=by, reason=reason)
