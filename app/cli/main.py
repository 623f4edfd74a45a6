"""The tree of commands behind ``python -m app``, and their exit codes.

A module of commands has ``register(subparsers)``, which adds its parsers and sets ``run`` on each of them:
a function from the parsed arguments to an exit code. Modules are imported for every command, so they import
what is heavy (settings, Flask, SQLAlchemy) only inside ``run``; ``python -m app --help`` stays instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from app.cli import (
    breakers,
    configuration,
    drain,
    exit_codes,
    keys,
    migrate,
    modes,
    openapi,
    reconcile,
    render,
    renditions,
    serve,
    users,
)
from app.errors import ConfigurationError, PhotoApiError

_EXIT_CODES = f"""\
exit codes:
  {exit_codes.OK}    done
  {exit_codes.FAILED}    the command failed; the reason stands on standard error
  {exit_codes.USAGE}    wrong usage
  {exit_codes.CONFIGURATION}   the configuration is wrong; every mistake stands on standard error
  {exit_codes.INTERRUPTED}  interrupted
"""

Subparsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for what add_subparsers returns

_REGISTRATIONS: tuple[Callable[[Subparsers[argparse.ArgumentParser]], None], ...] = (
    configuration.register,
    migrate.register,
    serve.register,
    users.register,
    keys.register,
    breakers.register,
    modes.register,
    drain.register,
    reconcile.register,
    openapi.register,
    render.register,
    renditions.register,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Photo API: a photo server on object storage.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for register in _REGISTRATIONS:
        register(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What stands after ``python -m app``; default: this process's arguments.

    Returns:
        The exit code. Wrong usage ends the process with 2 instead, as argparse does.
    """
    parsed = build_parser().parse_args(arguments)
    try:
        code = int(parsed.run(parsed))
        sys.stdout.flush()
    except ConfigurationError as error:
        print("The configuration is wrong:", *error.mistakes, sep="\n  ", file=sys.stderr)
        return exit_codes.CONFIGURATION
    except PhotoApiError as error:
        print(error.detail, file=sys.stderr)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader left, as `head` does; what the interpreter flushes at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.BROKEN_PIPE
    return code
