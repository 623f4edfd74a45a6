"""Commands about circuit breakers: ``breakers list``, ``show``, ``set`` and ``reset``.

They act through the page that the workers of the running server share (:mod:`app.ops.state`), not through a request:
they work while the server is full or hangs. What they decide holds in every worker with its next call, and is
recorded beside the page, with who and why.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from app.cli import exit_codes
from app.cli.running_server import (
    FOR_SECONDS_MAX,
    LOST,
    add_reason,
    left_seconds,
    open_page,
    operator,
    printable,
    record,
    seconds_argument,
    wall_time,
)
from app.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from app.ops.host_board import BoardEntry, HostBoard
    from app.stability import CircuitBreakerOptions, Decision

STATES: Final = (
    "closed",
    "open",
    "half_open",
    "disabled",
    "metrics_only",
    "forced_open",
    "forced_half_open",
)

_EPILOG = "exit codes: 0 done; 1 not done, the reason stands on standard error; 2 wrong usage"
_STATES_TEXT = """\
states:
  closed            calls pass; it opens by itself when too many fail or are slow
  open              calls are refused for a time, then it tries a few
  half_open         it tries a few calls now, which decide
  disabled          calls pass, nothing is recorded
  metrics_only      calls pass, everything is recorded, it never opens
  forced_open       calls are refused until you say otherwise
  forced_half_open  a few calls at a time pass until you say otherwise

The last four hold until you set another one: over reloads, restarts and reboots.
"""
_COLUMNS: Final = ("name", "state", "ends", "since", "by", "reason")
_WAIT_SECONDS = 60.0
_TRIES = 5


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    breakers = subparsers.add_parser(
        "breakers",
        help="see and set the circuit breakers of the server that runs in this folder",
        description="The circuit breakers of the server that runs in this folder, whether it answers or not.",
        epilog=_EPILOG,
    )
    commands = breakers.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="print all breakers", description="Print all.", epilog=_EPILOG)
    listing.set_defaults(run=_list)
    show = commands.add_parser(
        "show", help="print one, and the states it can be set to", description="Print one breaker.", epilog=_EPILOG
    )
    show.set_defaults(run=_show)
    change = commands.add_parser(
        "set",
        help="move one to another state",
        description="Move a breaker to another state, in all workers of the server that runs in this folder.",
        epilog=f"{_STATES_TEXT}\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    change.set_defaults(run=_set)
    reset = commands.add_parser(
        "reset",
        help="close one from whatever state, with fresh figures",
        description="Close a breaker from whatever state, with fresh figures, in all workers.",
        epilog=_EPILOG,
    )
    reset.set_defaults(run=_reset)
    for command in (show, change, reset):
        command.add_argument("name", metavar="NAME")
    change.add_argument("state", metavar="STATE", choices=STATES, help="one of the states below")
    change.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=seconds_argument,
        help="with open: for how long, a number of seconds up to a day, "
        f"{FOR_SECONDS_MAX:g} (default: the breaker's own wait)",
    )
    for command in (change, reset):
        add_reason(command)
    for command in (listing, show, change, reset):
        command.add_argument("--json", action="store_true", help="print JSON")


def _list(arguments: argparse.Namespace) -> int:
    """Run ``breakers list``."""
    rows = [_row(name, entry) for name, entry in _Desk().entries().items()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        print(_table([_COLUMNS, *map(_cells, rows)]))
    else:
        print("The server that runs here has no circuit breakers.")
    return exit_codes.OK


def _show(arguments: argparse.Namespace) -> int:
    """Run ``breakers show``."""
    name, entry = _Desk().find(arguments.name)
    row = {**_row(name, entry), "can_be_set_to": _targets(entry)}
    if arguments.json:
        print(json.dumps(row, indent=2))
        return exit_codes.OK
    lines = {
        **dict(zip(_COLUMNS, _cells(row), strict=True)),
        "openings": f"{row['openings']} since it was last closed",
        "can be set to": ", ".join(row["can_be_set_to"]),
    }
    print("\n".join(f"{label:<14} {text}" for label, text in lines.items()))
    return exit_codes.OK


def _set(arguments: argparse.Namespace) -> int:
    """Run ``breakers set``."""
    if arguments.seconds is not None and arguments.state != "open":
        print("--for goes with open only: no other state ends after a time that you choose.", file=sys.stderr)
        return exit_codes.USAGE
    desk = _Desk()
    name, _ = desk.find(arguments.name)
    before = desk.move(name, arguments.state, seconds=arguments.seconds, reason=arguments.reason)
    return _report(name, before, arguments.state, as_json=arguments.json)


def _reset(arguments: argparse.Namespace) -> int:
    """Run ``breakers reset``."""
    desk = _Desk()
    name, _ = desk.find(arguments.name)
    return _report(name, desk.reset(name, reason=arguments.reason), "closed", as_json=arguments.json)


def _report(name: str, before: str | None, after: str, *, as_json: bool) -> int:
    if as_json:
        facts = {"name": name, "before": before or after, "state": after, "changed": before is not None}
        print(json.dumps(facts, indent=2))
    elif before is not None:
        print(f"{name}: {before} -> {after}. It holds in every worker with its next call.")
    else:
        print(f"{name} is {after} already; nothing was changed.")
    return exit_codes.OK


class _Desk:
    """The breakers of the server that runs in this folder.

    Raises:
        UnavailableError: None runs here, or it cannot be reached.
    """

    def __init__(self) -> None:
        from app.ops.host_board import HostBoard

        self._board: HostBoard = HostBoard(open_page())
        self._options = _configured_options()

    def entries(self) -> dict[str, BoardEntry]:
        from app.ops.host_board import BoardEntry

        said = self._board.entries()
        if said is None:
            raise UnavailableError(LOST)
        return {name: said.get(name, BoardEntry()) for name in sorted({*said, *self._options})}

    def find(self, name: str) -> tuple[str, BoardEntry]:
        entries = self.entries()
        if name in entries:
            return name, entries[name]
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(entries) or 'none'}"
        raise NotFoundError(f"There is no breaker {name}; {hint}")

    def move(self, name: str, target: str, *, seconds: float | None, reason: str) -> str | None:
        """Return the state before; None when it is there already, and nothing was changed.

        Raises:
            ConflictError: It cannot go there from where it is.
            UnavailableError: The page is lost.
        """
        from app.stability.breaker_states import State, can_move

        def following(source: str, attempt: int) -> tuple[int, float] | None:
            if source == target and seconds is None:
                return None
            if not can_move(State(source), State(target)):
                reachable = ", ".join(_targets_of(source))
                raise ConflictError(f"{name} is {source}; from there it cannot go to {target}, only to: {reachable}")
            return 0 if target == "closed" else attempt, self._ends(name, target, seconds)

        return self._decide(name, target, following, reason)

    def reset(self, name: str, *, reason: str) -> str | None:
        """Return the state before."""
        return self._decide(name, "closed", lambda _source, _attempt: (0, math.inf), reason)

    def _decide(
        self, name: str, target: str, following: Callable[[str, int], tuple[int, float] | None], reason: str
    ) -> str | None:
        from app.stability import Decision

        standing = self._board.read(name)
        for _ in range(_TRIES):
            before = _state_of(standing)
            wanted = following(before, 0 if standing is None else standing.attempt)
            if wanted is None:
                return None
            attempt, until = wanted
            mine = Decision(1 if standing is None else standing.era + 1, target, attempt, until, operator(), reason)
            standing = self._board.decide(name, mine)
            if standing is mine:
                record(
                    breaker=name,
                    before=before,
                    after=target,
                    ends_in_seconds=left_seconds(until),
                    by=mine.by,
                    reason=reason,
                    era=mine.era,
                )
                return before
            if standing is None:
                raise UnavailableError(LOST)
        raise UnavailableError(f"{name} changes faster than this command; nothing was changed. Try again.")

    def _ends(self, name: str, target: str, seconds: float | None) -> float:
        if target not in {"open", "half_open"}:
            return math.inf
        if seconds is None:
            seconds = self._own_seconds(name, target)
        return time.monotonic() + seconds

    def _own_seconds(self, name: str, target: str) -> float:
        options = self._options.get(name)
        if options is None:
            return _WAIT_SECONDS
        wait = options.wait_duration_in_open_state_seconds
        limit = options.max_wait_duration_in_half_open_state_seconds if target == "half_open" else None
        return limit or (_WAIT_SECONDS if callable(wait) else wait)


def _configured_options() -> dict[str, CircuitBreakerOptions]:
    """Return the options of the configured breakers; a configuration that is wrong does not matter here."""
    from app.pipelines import load_configuration
    from app.stability import CircuitBreaker

    try:
        pipelines = load_configuration().pipelines
    except ConfigurationError:
        return {}
    return {name: breaker.options for name, breaker in pipelines.find_all(CircuitBreaker).items()}


def _state_of(decision: Decision | None) -> str:
    return decision.state if decision is not None and decision.state in STATES else "closed"


def _targets(entry: BoardEntry) -> list[str]:
    return _targets_of(_state_of(entry.decision))


def _targets_of(source: str) -> list[str]:
    from app.stability.breaker_states import State, can_move

    return [target for target in STATES if target != source and can_move(State(source), State(target))]


def _row(name: str, entry: BoardEntry) -> dict[str, Any]:
    decision = entry.decision
    return {
        "name": name,
        "state": _state_of(decision),
        "ends_in_seconds": None if decision is None else left_seconds(decision.until),
        "since": None if decision is None else wall_time(entry.decided_at),
        "by": None if decision is None else decision.by,
        "reason": (decision.reason or None) if decision is not None else None,
        "openings": 0 if decision is None else decision.attempt,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = row["ends_in_seconds"]
    ends = "-" if seconds is None else f"in {seconds:.0f} s" if seconds else "at a call"
    texts = (row["name"], row["state"], ends, row["since"] or "-", row["by"] or "-", row["reason"] or "-")
    return tuple(map(printable, texts))


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    known = list(rows)
    widths = [max(map(len, column)) for column in zip(*known, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in known)
