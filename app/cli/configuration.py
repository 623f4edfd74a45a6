"""Commands about the configuration: ``check-config`` and ``settings``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from app.cli import exit_codes
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from app.cli.main import Subparsers


def register(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands of this module."""
    check = subparsers.add_parser(
        "check-config",
        help="say whether settings and pipelines are right, with every mistake",
        description="Judge all settings, the files that they name and the pipelines of config/stability.toml as a "
        "start would, those of the other profiles too, without touching database or storage, and print the pipelines "
        "as they will run and the timing inequalities with their numbers. What works and is probably not meant is a "
        "warning on standard error.",
        epilog="exit codes: 0 right; 78 wrong, with every mistake on standard error, with --json on standard output",
    )
    check.add_argument(
        "--json", action="store_true", help='print {"valid", "profile", "mistakes", "warnings", "times", "pipelines"}'
    )
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
    from app.pipelines import load_configuration
    from app.settings_timing import format_times, judge_times
    from app.stability.description import format_pipelines
    from app.startup_files import find_file_mistakes

    try:
        configuration = load_configuration(look_further=find_file_mistakes)
    except ConfigurationError as error:
        if not arguments.json:
            raise
        _print_judgement(valid=False, profile=error.profile, mistakes=error.mistakes)
        return exit_codes.CONFIGURATION
    profile = configuration.loaded.settings.profile
    times = judge_times(configuration.loaded.settings)
    described = configuration.pipelines.described
    if arguments.json:
        pipelines = [pipeline.to_json() for pipeline in described]
        _print_judgement(
            valid=True,
            profile=profile,
            warnings=configuration.cautions,
            times=[judged.to_json() for judged in times],
            pipelines=pipelines,
        )
        return exit_codes.OK
    print(f"The configuration is right (profile {profile}). Calls run through these pipelines, outermost first:\n")
    print(format_pipelines(described))
    print("\nThe timing inequalities, in seconds (docs/operations/edge.md); production keeps them all:\n")
    print(format_times(times), flush=True)
    for caution in configuration.cautions:
        print(f"Warning: {caution}", file=sys.stderr)
    return exit_codes.OK


def _print_judgement(**judgement: object) -> None:
    columns = {"valid": False, "profile": None, "mistakes": (), "warnings": (), "times": (), "pipelines": ()}
    print(json.dumps({**columns, **judgement}, indent=2))


def _print_settings(arguments: argparse.Namespace) -> int:
    """Run ``settings``."""
    from app.settings import load_with_origins
    from app.settings_table import build_rows, format_markdown, format_text

    if arguments.markdown:
        print(format_markdown(build_rows()), end="")
        return exit_codes.OK
    rows = build_rows(load_with_origins())
    print(json.dumps([row.to_json() for row in rows], indent=2) if arguments.json else format_text(rows))
    return exit_codes.OK
