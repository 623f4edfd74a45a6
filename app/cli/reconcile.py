"""``python -m app reconcile``: compare the object store with the database, both ways."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import TYPE_CHECKING

from app.cli import exit_codes
from app.cli.database import open_database

if TYPE_CHECKING:
    from app.photos.reconcile import Reconciliation

_GRACE_SECONDS = 3600.0


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    parser = subparsers.add_parser(
        "reconcile",
        help="compare the object store with the database",
        description=(
            "Find objects that neither a photo nor a rendition names, and those whose object is missing. Changes "
            "nothing unless --delete is given; then lost renditions are made anew when asked for. Rows of "
            "photos are never removed."
        ),
        epilog="exit codes: 0 both agree; 1 something is left to be done, or database or store cannot be used (the "
        "reason stands on standard error); 2 wrong usage; 78 the configuration is wrong",
    )
    parser.add_argument("--delete", action="store_true", help="remove such objects, and the rows of lost renditions")
    parser.add_argument(
        "--grace-seconds",
        type=_seconds,
        default=_GRACE_SECONDS,
        metavar="SECONDS",
        help=f"leave alone what is younger (default {_GRACE_SECONDS:.0f}, at least 0)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=reconcile)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return seconds


def reconcile(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from app.photos import reconcile as reconciliation
    from app.settings import load_settings
    from app.storage.build import build_store

    settings = load_settings()
    with open_database(settings.database) as database, closing(build_store(settings.storage)) as store:
        found = reconciliation.reconcile(
            database, store, grace_seconds=arguments.grace_seconds, is_dry_run=not arguments.delete
        )
    _report(found, as_json=arguments.json)
    return exit_codes.OK if found.is_clean else exit_codes.FAILED


def _report(found: Reconciliation, *, as_json: bool) -> None:
    if as_json:
        document = {
            "objects": found.objects,
            "photos": found.photos,
            "renditions": found.renditions,
            "orphans": found.orphans,
            "removed": found.removed,
            "missing": [str(photo_id) for photo_id in found.missing],
            "lost_renditions": found.lost,
            "forgotten_renditions": found.forgotten,
        }
        print(json.dumps(document))
        return
    print(f"{found.objects} objects, {found.photos} photos, {found.renditions} renditions.")
    for key in found.orphans:
        print(f"object without a photo: {key}")
    for photo_id in found.missing:
        print(f"photo without its object: {photo_id}")
    for key in found.lost:
        print(f"rendition without its object: {key}")
    left = len(found.orphans) - found.removed
    print(
        f"{found.removed} objects removed, {left} left (remove them with --delete), {len(found.missing)} photos and "
        f"{len(found.lost)} renditions lost."
    )
