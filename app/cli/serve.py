"""``python -m app serve``: judge the settings, then become the server's master (:mod:`app.server`).

A mistake in the settings ends it with exit code 78 and every mistake in one message, before anything listens; an
address that is taken ends it with 1 and one line. Who takes it between that look and gunicorn's is told by gunicorn.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.settings_edge import ServerSettings

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
        epilog="exit codes: 0 stopped by SIGTERM; 1 an address is in use, or gunicorn failed, the reason stands on "
        "standard error; 2 wrong usage; 78 the configuration is wrong, or the database is not migrated",
    )
    parser.set_defaults(run=serve)


def serve(_arguments: argparse.Namespace) -> NoReturn:
    """Become the master; does not return.

    Raises:
        ConfigurationError: With every mistake; nothing listens yet.
        UnavailableError: An address is taken.
    """
    from app.pipelines import load_configuration
    from app.startup_files import find_file_mistakes

    configuration = load_configuration(look_further=find_file_mistakes)
    for caution in configuration.cautions:
        print(f"Warning: {caution}", file=sys.stderr)
    if os.environ.get("LISTEN_PID") != str(os.getpid()):  # else systemd holds them, for this process
        _require_free_addresses(configuration.loaded.settings.server)
    _open_standard_streams()
    os.execv(sys.executable, [sys.executable, "-m", "app.server"])  # noqa: S606  # no shell is the point; every argument is ours


def _require_free_addresses(server: ServerSettings) -> None:
    _require_free(server.bind, "PORT= with make run, PHOTO_API_SERVER__BIND")
    _require_free(server.management_bind, "PHOTO_API_SERVER__MANAGEMENT_BIND")


def _require_free(bind: str, setting: str) -> None:
    """Judge an address by binding it for a moment; of a unix socket, whose path is taken over, by its folder."""
    from app.settings_forms import parse_address

    address = parse_address(bind)
    if address.path is not None:
        folder = address.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            trouble = "it cannot be written" if folder.is_dir() else "there is no such folder"
            raise UnavailableError(f"Cannot listen on {bind}: {folder}: {trouble}. Mend it, or choose: {setting}.")
        return
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UnavailableError(f"Cannot listen on {bind} ({reason}). Choose another address: {setting}.") from error


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
