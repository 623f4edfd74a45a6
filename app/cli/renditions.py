"""Commands about renditions: ``renditions rebuild``."""

from __future__ import annotations

import argparse
import json
from uuid import UUID

from app.cli import exit_codes
from app.cli.database import open_database


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    epilog = (
        "exit codes: 0 queued; 1 there is no such photo, or the database cannot be used (the reason stands on "
        "standard error); 2 wrong usage; 78 the configuration is wrong"
    )
    renditions = subparsers.add_parser(
        "renditions", help="have renditions made again", description="Commands about renditions.", epilog=epilog
    )
    commands = renditions.add_subparsers(title="commands", metavar="COMMAND", required=True)
    rebuild = commands.add_parser(
        "rebuild",
        help="queue photos for the server to decode again",
        description=(
            "Queue photos: the server describes them again and makes the renditions that are missing, in the "
            "background. Renditions of earlier sizes and qualities are removed. Returns at once."
        ),
        epilog=epilog,
    )
    rebuild.add_argument("--failed", action="store_true", help="only photos that could not be decoded")
    rebuild.add_argument("--photo", type=UUID, metavar="ID", help="only this photo")
    rebuild.add_argument("--dry-run", action="store_true", help="only count")
    rebuild.add_argument("--json", action="store_true", help='print {"photos", "removed", "dry_run"}')
    rebuild.set_defaults(run=_rebuild)


def _rebuild(arguments: argparse.Namespace) -> int:
    """Run ``renditions rebuild``."""
    from app.images.presets import configured
    from app.renditions.rebuilding import rebuild
    from app.settings import load_settings

    settings = load_settings()
    with open_database(settings.database) as database:
        done = rebuild(
            database,
            configured(settings.renditions),
            only_failed=arguments.failed,
            photo_id=arguments.photo,
            is_dry_run=arguments.dry_run,
        )
    if arguments.json:
        print(json.dumps({"photos": done.photos, "removed": done.removed, "dry_run": arguments.dry_run}))
    elif arguments.dry_run:
        print(f"{done.photos} photos would be queued, {done.removed} old renditions removed. Nothing was changed.")
    else:
        print(f"{done.photos} photos queued, {done.removed} old renditions removed.")
    return exit_codes.OK
