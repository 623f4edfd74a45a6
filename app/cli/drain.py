"""``python -m app drain``: takes the server that runs in this folder out of service without losing a request.

It finds the server on the page that its processes share (:mod:`app.ops.state`), not through a request: it works while
the server is full or hangs. The signal goes to that very process, never to another one that has its number since.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.cli import exit_codes
from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.ops.lifecycle import HostLife, HostReport, ServerWord

_EPILOG: Final = """\
Nothing happens to a server that drains already. A server that another one replaces (SIGUSR2) and that one are both
drained, unless --pid names one. The time-out ends this command, never the drain; interrupting it does not either.

exit codes: 0 drained, or without --wait: asked to; 1 no server runs here, it is still there when the time is over,
or it may not be signalled, the reason stands on standard error; 2 wrong usage; 130 interrupted
"""
_AS_WHOM: Final = "Run this as the server's user, or as root."
_TIMEOUT_SECONDS = 600.0
_TIMEOUT_SECONDS_MAX = 86_400.0
_LOOK_SECONDS = 0.1


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    parser = subparsers.add_parser(
        "drain",
        help="take the server that runs in this folder out of service, losing no request",
        description="Ask the server that runs in this folder to drain: its readiness answers 503 at once, it serves "
        "on until its balancer has noticed, then it stops accepting, finishes what is in flight, and ends.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--wait", action="store_true", help="return when the server is gone")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help=f"with --wait: for how long, a number of seconds up to a day, 86400 (default: {_TIMEOUT_SECONDS:g})",
    )
    parser.add_argument("--pid", metavar="PID", type=int, help="only the server with this master")
    parser.add_argument("--json", action="store_true", help="print JSON, one object at the end")
    parser.set_defaults(run=drain)


def drain(arguments: argparse.Namespace) -> int:
    """Ask the servers of this folder to drain, and wait for their end if so wished.

    Returns:
        The exit code.

    Raises:
        UnavailableError: None runs here, it cannot be reached, or it may not be signalled.
    """
    if arguments.timeout is not None and not arguments.wait:
        print("--timeout goes with --wait only: without it nothing is waited for.", file=sys.stderr)
        return exit_codes.USAGE
    host = _open_host()
    drained = [_ask(word) for word in _find(host, arguments.pid)]
    if not arguments.json:
        for server in drained:
            print(server.sentence, flush=True)
    if arguments.wait:
        _follow(host, drained, arguments.timeout or _TIMEOUT_SECONDS, is_quiet=arguments.json)
    if arguments.json:
        print(json.dumps({"servers": [server.facts() for server in drained]}, indent=2))
    left = [server for server in drained if arguments.wait and server.gone_after is None]
    for server in left:
        print(_still_there(server, arguments.timeout or _TIMEOUT_SECONDS), file=sys.stderr)
    return exit_codes.FAILED if left else exit_codes.OK


@dataclass(slots=True)
class _Drained:
    """A server that was asked to drain.

    Attributes:
        word: What it said before.
        asked: Whether it was sent the signal.
        said: What it and its workers were last seen to be at.
        in_flight: How many requests they were last seen to be working on.
        gone_after: How many seconds after the beginning it was gone; None while it is there.
    """

    word: ServerWord
    asked: bool
    said: str = ""
    in_flight: int = 0
    gone_after: float | None = None

    @property
    def sentence(self) -> str:
        if self.asked:
            return f"Server {self.word.pid} was asked to drain."
        ending = "drains already" if self.gone_after is None else "has ended by itself"
        return f"Server {self.word.pid} {ending}."

    def facts(self) -> dict[str, object]:
        return {
            "pid": self.word.pid,
            "before": self.word.state.name.lower(),
            "asked": self.asked,
            "in_flight": self.in_flight,
            "gone": self.gone_after is not None,
            "seconds": None if self.gone_after is None else round(self.gone_after, 1),
        }


def _open_host() -> HostLife:
    from app.ops.lifecycle import HostLife
    from app.ops.state import PAGE_NAME, StatePage
    from app.server.state_folder import STATE_FOLDER

    logging.getLogger("app.ops.state").addHandler(logging.NullHandler())  # what is wrong is said here, once
    page = STATE_FOLDER / PAGE_NAME
    if not os.access(page, os.F_OK):
        _require_server()
    return HostLife(StatePage(page, writable=False))


def _find(host: HostLife, pid: int | None) -> list[ServerWord]:
    from app.ops.lifecycle import State

    report = host.look()
    found = [] if report is None else [word for word in report.servers if word.state < State.STOPPED]
    wanted = [word for word in found if pid in {None, word.pid}]
    if wanted:
        return wanted
    if found:
        there = ", ".join(str(word.pid) for word in found)
        raise UnavailableError(f"No server with the process id {pid} runs in this folder; there is: {there}")
    _require_server()
    if report is None:
        raise UnavailableError(
            "The page that the server's processes share cannot be read; the server's log says why. "
            "Send SIGTERM to its master yourself: that drains it, too."
        )
    raise UnavailableError(
        "The server that runs in this folder has not said its process id: it is starting, or ending. "
        "Try again in a moment, or send SIGTERM to its master yourself."
    )


def _require_server() -> None:
    """Raise when no process holds the lock of the folder, which says more than a page that cannot be read."""
    from app.server.state_folder import STATE_FOLDER, server_runs

    try:
        runs = server_runs(STATE_FOLDER)
    except PermissionError as error:
        raise UnavailableError(f"{STATE_FOLDER} cannot be read. {_AS_WHOM}") from error
    if not runs:
        raise UnavailableError("No server runs in this folder; nothing was drained. Go to the folder it runs in.")


def _ask(word: ServerWord) -> _Drained:
    """Send the signal to the process that has said this, unless it drains already."""
    from app.ops.lifecycle import State

    try:
        descriptor = os.pidfd_open(word.pid)
    except ProcessLookupError:
        return _Drained(word, asked=False, gone_after=0.0)
    try:
        if not _lives(word):  # the number is another's; one that has it from here on is not meant by the descriptor
            return _Drained(word, asked=False, gone_after=0.0)
        asked = word.state < State.DRAINING
        if asked:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        return _Drained(word, asked=asked)
    except ProcessLookupError:
        return _Drained(word, asked=False, gone_after=0.0)
    except PermissionError as error:
        raise UnavailableError(f"Server {word.pid} may not be signalled by this user. {_AS_WHOM}") from error
    finally:
        os.close(descriptor)


def _follow(host: HostLife, drained: list[_Drained], seconds: float, *, is_quiet: bool) -> None:
    """Wait until all are gone or the time is over; tell on a terminal what they are at, whenever it changes."""
    began = time.monotonic()
    is_told = not is_quiet and sys.stdout.isatty()
    while any(server.gone_after is None for server in drained):
        after = time.monotonic() - began
        report = host.look()
        for server in [server for server in drained if server.gone_after is None]:
            if report is not None:
                _observe(server, report, after, is_told=is_told)
            if not _lives(server.word):
                server.gone_after = after
                if not is_quiet:
                    print(f"Server {server.word.pid} is gone, after {after:.1f} s.", flush=True)
        if after >= seconds:
            return
        time.sleep(_LOOK_SECONDS)


def _observe(server: _Drained, report: HostReport, after: float, *, is_told: bool) -> None:
    own = report.of_master(server.word.pid)
    state = own.servers[0].state.name.lower() if own.servers else "ending"
    server.in_flight = own.in_flight
    said = f"{state}, {own.in_flight} in flight, {own.waiting} waiting, {len(own.workers)} workers"
    if said != server.said:
        server.said = said
        if is_told:
            print(f"{after:7.1f} s  server {server.word.pid}: {said}", flush=True)


def _lives(word: ServerWord) -> bool:
    return word.owner is not None and word.owner.lives()


def _still_there(server: _Drained, seconds: float) -> str:
    return (
        f"Server {server.word.pid} is still there after {seconds:g} s ({server.said or 'it says nothing'}). "
        "It goes on draining: wait again with --wait, or send it SIGTERM, which ends its lame duck."
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _TIMEOUT_SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds; give one that is more than 0 and at most {_TIMEOUT_SECONDS_MAX:g}, "
            "without a unit: --timeout 60"
        )
    return seconds
