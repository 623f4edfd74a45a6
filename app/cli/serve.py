"""``python -m app serve``: judge the settings, then become gunicorn.

A mistake in the settings ends it with exit code 78 and every mistake in one message, before anything listens.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

_CONFIGURATION_FILE: Final = Path(__file__).resolve().parent.parent / "server" / "gunicorn_conf.py"
_STANDARD_STREAMS = 3


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    parser = subparsers.add_parser(
        "serve",
        help="serve requests until stopped",
        description="Serve on the public and the management listener, as the settings say, until SIGTERM.",
    )
    parser.set_defaults(run=serve)


def serve(_arguments: argparse.Namespace) -> NoReturn:
    """Become gunicorn; does not return.

    Raises:
        ConfigurationError: With every mistake; nothing listens yet.
    """
    from app.settings import load_settings  # noqa: PLC0415  # other commands need not wait for it

    load_settings()
    _open_standard_streams()
    command = [sys.executable, "-m", "gunicorn", "--config", str(_CONFIGURATION_FILE), "wsgi:app"]
    os.execv(sys.executable, command)  # noqa: S606  # no shell is the point; every argument is ours


def _open_standard_streams() -> None:
    # A descriptor that is closed would be given to the next file that is opened, and log lines would go into it.
    for descriptor in range(_STANDARD_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
