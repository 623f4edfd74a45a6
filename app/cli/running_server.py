"""What commands share that act on the server of this folder through the page of its workers: finding it, who, why.

They work while the server is full or hangs, because they ask it nothing. What they change is recorded beside the
page.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
import pwd
import sys
import time
from typing import TYPE_CHECKING, Final

from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.ops.state import StatePage

REASON_BYTES_MAX: Final = 200
"""How long a reason may be, in UTF-8."""

FOR_SECONDS_MAX: Final = 86_400.0
"""For how long something may be set that ends by itself."""

LOST: Final = (
    "The workers' shared page cannot be read or written; each worker acts for itself. Their log says why. "
    "Nothing was changed."
)
"""What is said when the page is lost."""


def open_page() -> StatePage:
    """Return the page of the server that runs in this folder.

    Raises:
        UnavailableError: None runs here, or it cannot be reached.
    """
    from app.ops.state import PAGE_NAME, StatePage
    from app.server.state_folder import STATE_FOLDER, server_runs

    try:
        runs = server_runs(STATE_FOLDER)
    except PermissionError as error:
        raise UnavailableError(f"{STATE_FOLDER} cannot be read. Run this as the server's user.") from error
    if not runs:
        raise UnavailableError(
            "No server runs in this folder. Start one (python -m app serve), or go to the folder it runs in."
        )
    return StatePage(STATE_FOLDER / PAGE_NAME, repairs=False)


def record(**facts: object) -> None:
    """Record a change beside the page; say so where that does not work, for the change holds all the same.

    Args:
        facts: What was changed, by whom and why; the time is added.
    """
    from app.server.state_folder import CHANGES_NAME, STATE_FOLDER, record_change

    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        record_change(STATE_FOLDER, {"timestamp": now, **facts})
    except OSError as error:
        trouble = error.strerror or error
        print(f"warning: {STATE_FOLDER / CHANGES_NAME} does not record this: {trouble}", file=sys.stderr)


def operator() -> str:
    """Return who runs this command, as it stands on the page."""
    user_id = os.getuid()
    try:
        login = pwd.getpwuid(user_id).pw_name
    except KeyError:  # a container's user need not have a name
        login = str(user_id)
    return f"{login}@cli"


def seconds_argument(text: str) -> float:
    """Return a number of seconds that was given on the command line, more than 0 and up to a day.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= FOR_SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds; give one that is more than 0 and at most {FOR_SECONDS_MAX:g}, "
            "without a unit: --for 600"
        )
    return seconds


def reason_argument(text: str) -> str:
    """Return a reason that was given on the command line, in one line.

    Raises:
        argparse.ArgumentTypeError: It is too long.
    """
    said = " ".join(text.split())
    length = len(said.encode("utf-8", "replace"))
    if length > REASON_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"{length} bytes are too many; it has room for {REASON_BYTES_MAX}")
    return said


def add_reason(parser: argparse.ArgumentParser) -> None:
    """Add the option that says why."""
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        type=reason_argument,
        default="",
        help=f"why, up to {REASON_BYTES_MAX} bytes in UTF-8; for the log and whoever looks next",
    )


def printable(text: str) -> str:
    """Return a text as a terminal may show it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def wall_time(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def left_seconds(until: float) -> float | None:
    """Return how long it is until an instant of the monotonic clock, 0 or more; None when it never comes."""
    return round(max(0.0, until - time.monotonic()), 1) if math.isfinite(until) else None
