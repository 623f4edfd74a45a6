"""``python -m app migrate``: bring the database's schema up to date."""

from __future__ import annotations

import argparse
import json

from app.cli import exit_codes
from app.cli.database import open_database


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    parser = subparsers.add_parser(
        "migrate",
        help="bring the database's schema up to date",
        description="Bring the database's schema up to date. Safe to run again, and from several machines at once.",
        epilog="exit codes: 0 up to date; 1 the database cannot be used (the reason stands on standard error), or "
        "--check found something to do; 2 wrong usage; 78 the configuration is wrong",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when there is something to do")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=migrate)


def migrate(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from app.db import migrate as migrations
    from app.settings import load_settings

    with open_database(load_settings().database, migrated=False) as database:
        before, head = migrations.current_revision(database), migrations.head_revision()
        if before != head and not arguments.check:
            migrations.upgrade(database)
    if arguments.json:
        print(json.dumps({"before": before, "needed": head, "changed": before != head and not arguments.check}))
    elif before == head:
        print(f"The database is up to date (revision {head}).")
    elif arguments.check:
        print(f"The database is at revision {before or 'none'}; {head} is needed. Run: python -m app migrate")
    else:
        print(f"The database went from revision {before or 'none'} to {head}.")
    return exit_codes.FAILED if arguments.check and before != head else exit_codes.OK
