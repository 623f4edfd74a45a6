"""Commands about the configuration: ``check-config`` and ``settings``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from app.cli import exit_codes
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from app.cli.main import Subparsers


def register(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands of this module."""
    check = subparsers.add_parser(
        "check-config",
        help="say whether the settings are right, with every mistake",
        description="Judge all settings as a start would, without touching database or storage.",
        epilog="exit codes: 0 right; 78 wrong, with every mistake on standard error, with --json on standard output",
    )
    check.add_argument("--json", action="store_true", help='print {"valid", "profile", "mistakes"}')
    check.set_defaults(run=_check)
    table = subparsers.add_parser(
        "settings",
        help="print every setting with its value and where it comes from",
        description="Print every setting: what may stand there, its default, its value and where it comes from. "
        "Secrets are masked.",
        epilog="exit codes: 0 printed; 78 the configuration is wrong, with every mistake on standard error",
    )
    form = table.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects, one per setting")
    form.add_argument(
        "--markdown", action="store_true", help="print the reference of docs/configuration.md, without values"
    )
    table.set_defaults(run=_print_settings)


def _check(arguments: argparse.Namespace) -> int:
    """Run ``check-config``."""
    from app.settings import load_settings  # noqa: PLC0415 - pydantic takes a while; --help does not wait for it

    try:
        profile = load_settings().profile
    except ConfigurationError as error:
        if not arguments.json:
            raise
        print(json.dumps({"valid": False, "profile": error.profile, "mistakes": error.mistakes}, indent=2))
        return exit_codes.CONFIGURATION
    if arguments.json:
        print(json.dumps({"valid": True, "profile": profile, "mistakes": []}, indent=2))
    else:
        print(f"The configuration is right (profile {profile}).")
    return exit_codes.OK


def _print_settings(arguments: argparse.Namespace) -> int:
    """Run ``settings``."""
    from app.settings import load_with_origins  # noqa: PLC0415 - pydantic takes a while, too
    from app.settings_table import build_rows, format_markdown, format_text  # noqa: PLC0415 - pydantic takes a while, too

    if arguments.markdown:
        print(format_markdown(build_rows()), end="")
        return exit_codes.OK
    rows = build_rows(load_with_origins())
    print(json.dumps([row.to_json() for row in rows], indent=2) if arguments.json else format_text(rows))
    return exit_codes.OK
