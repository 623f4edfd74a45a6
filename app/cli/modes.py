"""Commands about the mode of the server that runs in this folder: ``mode show`` and ``mode set``.

They act through the page that the workers share, not through a request: what they say holds in every worker with its
next request, also while the server is full or hangs, and is recorded beside the page with who and why.
"""

from __future__ import annotations

import argparse
import json
import sys
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
from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.ops.host_board import BoardEntry

_EPILOG: Final = "exit codes: 0 done; 1 not done, the reason stands on standard error; 2 wrong usage"
_SHOW_TEXT: Final = f"""\
What stands on the page that the workers share: an operator's word, whether the database takes changes, and the
breaker before the object store. Of the spool and of memory each process judges for itself; /health/detailed on the
management listener and the metric photo_api_mode tell of those, too.

{_EPILOG}
"""
_SET_TEXT: Final = f"""\
modes:
  normal      take back what was said; what the server finds by itself holds on
  read-only   refuse every change with 503 and Retry-After; reading goes on, and so do logins

It holds from the next request on, over reloads and restarts. What is under way is finished.

{_EPILOG}
"""
_STORAGE_BREAKER: Final = "storage_write"
_REFUSING: Final = frozenset({"open", "half_open", "forced_open", "forced_half_open"})


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    mode = subparsers.add_parser(
        "mode",
        help="see and set what the server that runs in this folder takes: everything, or no changes",
        description="The mode of the server that runs in this folder, whether it answers or not.",
        epilog=_EPILOG,
    )
    commands = mode.add_subparsers(title="commands", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    show = commands.add_parser(
        "show",
        help="print the mode, and why",
        description="Print the mode.",
        epilog=_SHOW_TEXT,
        formatter_class=raw,
    )
    show.set_defaults(run=_show)
    change = commands.add_parser(
        "set",
        help="let nothing be changed, or take that back",
        description="Set the mode, in all workers of the server that runs in this folder.",
        epilog=_SET_TEXT,
        formatter_class=raw,
    )
    change.set_defaults(run=_set)
    change.add_argument("mode", metavar="MODE", choices=("normal", "read-only"), help="one of the modes below")
    change.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=seconds_argument,
        help="with read-only: for how long, a number of seconds up to a day, "
        f"{FOR_SECONDS_MAX:g} (default: until you say normal)",
    )
    add_reason(change)
    for command in (show, change):
        command.add_argument("--json", action="store_true", help="print JSON")


def _show(arguments: argparse.Namespace) -> int:
    """Run ``mode show``."""
    reasons = _reasons()
    name = _name_of(reasons)
    if arguments.json:
        print(json.dumps({"mode": name, "reasons": reasons}, indent=2))
        return exit_codes.OK
    print(name)
    for reason in reasons:
        print(_sentence(reason))
    return exit_codes.OK


def _set(arguments: argparse.Namespace) -> int:
    """Run ``mode set``."""
    from app.ops.host_board import MODES, HostBoard
    from app.ops.mode_reasons import OperatorWord

    wanted = arguments.mode.replace("-", "_")
    if arguments.seconds is not None and wanted == "normal":
        print("--for goes with read-only only: normal holds until you say otherwise.", file=sys.stderr)
        return exit_codes.USAGE
    word = OperatorWord(HostBoard(open_page(), prefix=MODES))
    before = word.say(wanted, seconds=arguments.seconds, by=operator(), reason=arguments.reason)
    is_changed = not before == wanted == "normal"
    if is_changed:
        facts = {"ends_in_seconds": arguments.seconds, "by": operator(), "reason": arguments.reason}
        record(mode="operator", before=before, after=wanted, **facts)
    if arguments.json:
        print(json.dumps({"before": before, "mode": wanted, "changed": is_changed}, indent=2))
    elif is_changed:
        print(f"{before.replace('_', '-')} -> {arguments.mode}. It holds in every worker with its next request.")
    else:
        print("No operator has said anything else; nothing was changed.")
    if wanted == "normal" and not arguments.json:
        for reason in _reasons():
            print(f"This holds by itself: {_sentence(reason)}")
    return exit_codes.OK


def _reasons() -> list[dict[str, Any]]:
    """Return the reasons that stand on the page, the gravest first.

    Raises:
        UnavailableError: No server runs here, or the page is lost.
    """
    from app.ops.host_board import DATABASE, MODES, READ_ONLY, HostBoard

    page = open_page()
    words, breakers = HostBoard(page, prefix=MODES).entries(), HostBoard(page).entries()
    if words is None or breakers is None:
        raise UnavailableError(LOST)
    found = [
        _reason(name, "read_only", entry)
        for name in ("operator", DATABASE)
        if (entry := words.get(name)) is not None and _holds(entry, frozenset({READ_ONLY}), ends=True)
    ]
    breaker = breakers.get(_STORAGE_BREAKER)
    if breaker is not None and _holds(breaker, _REFUSING, ends=False):
        found.append(_reason("storage_writes", "degraded", breaker))
    return found


def _holds(entry: BoardEntry, states: frozenset[str], *, ends: bool) -> bool:
    decision = entry.decision
    if decision is None or decision.state not in states:
        return False
    return not ends or left_seconds(decision.until) != 0  # an open breaker is open until a call has tried


def _reason(name: str, mode: str, entry: BoardEntry) -> dict[str, Any]:
    decision = entry.decision
    assert decision is not None  # noqa: S101  # only what holds has a reason
    return {
        "name": name,
        "mode": mode,
        "since": wall_time(entry.decided_at),
        "by": decision.by,
        "reason": decision.reason or None,
        "ends_in_seconds": left_seconds(decision.until),
    }


def _name_of(reasons: list[dict[str, Any]]) -> str:
    return str(reasons[0]["mode"]) if reasons else "normal"


def _sentence(reason: dict[str, Any]) -> str:
    said = f": {printable(reason['reason'])}" if reason["reason"] else ""
    left = reason["ends_in_seconds"]
    ends = "" if left is None else f", ends in {left:.0f} s"
    return f"{reason['mode']} by {reason['name']} since {reason['since']}{ends} ({printable(reason['by'])}{said})"
