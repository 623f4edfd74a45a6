"""Commands about the keys that sign tokens, cursors and links: ``keys list`` and ``keys rotate``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from app.cli import exit_codes
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from app.accounts.keyring import RingKey
    from app.settings import AuthSettings, Settings

_SLACK_SECONDS = 60
_CURSOR_OVERLAP_SECONDS = 86_400


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    epilog = "exit codes: 0 done; 2 wrong usage; 78 the configuration or the key ring file is wrong, or it is missing"
    keys = subparsers.add_parser(
        "keys", help="list and rotate the keys that sign tokens and links", description="Key rings.", epilog=epilog
    )
    commands = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = commands.add_parser(
        "list",
        help="print the keys without their secrets",
        description="Print all keys' names and times.",
        epilog=epilog,
    )
    show.add_argument("--json", action="store_true", help="print a list of objects, one a key")
    show.set_defaults(run=_list)
    rotate = commands.add_parser(
        "rotate",
        help="give rings a new key; the old ones verify until nothing they signed lives",
        description="Give rings a new key. Running workers take it up by themselves, within seconds; no token that "
        "is good now is refused.",
        epilog=epilog,
    )
    rotate.add_argument("--ring", choices=("jwt", "cursor", "refresh", "link"), help="only this ring (default: all)")
    rotate.add_argument(
        "--at-once",
        action="store_true",
        help="for a key that leaked: retire the old keys now, so that everything they signed is refused",
    )
    rotate.set_defaults(run=_rotate)


def _list(arguments: argparse.Namespace) -> int:
    """Run ``keys list``."""
    from app.accounts.ring_file import read_ring_file

    path = _ring_file(_settings().auth)
    now = dt.datetime.now(dt.UTC)
    rows = [_row(ring, key, now) for ring, keys in read_ring_file(path).items() for key in keys]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return exit_codes.OK
    print(f"{'ring':<8} {'kid':<14} {'state':<8} {'not before':<26} retires")
    for row in rows:
        print(
            f"{row['ring']:<8} {row['kid']:<14} {row['state']:<8} {row['not_before']:<26} {row['retire_at'] or '-'}"
        )
    return exit_codes.OK


def _rotate(arguments: argparse.Namespace) -> int:
    """Run ``keys rotate``."""
    from app.accounts.keyring import CURSOR, LINK, RINGS
    from app.accounts.ring_file import ACTIVATION_DELAY_SECONDS, rotate_ring_file

    settings = _settings()
    path = _ring_file(settings.auth)
    overlaps = {CURSOR: _CURSOR_OVERLAP_SECONDS, LINK: 2 * settings.links.window_seconds + _SLACK_SECONDS}
    for ring in [arguments.ring] if arguments.ring else RINGS:
        overlap = overlaps.get(ring, settings.auth.access_token_seconds + _SLACK_SECONDS)
        rotate_ring_file(
            path,
            [ring],
            overlap_seconds=0 if arguments.at_once else overlap,
            delay_seconds=0 if arguments.at_once else ACTIVATION_DELAY_SECONDS,
        )
        print(
            f"{ring}: a new key signs from now on; the old ones are retired."
            if arguments.at_once
            else f"{ring}: a new key signs in {ACTIVATION_DELAY_SECONDS:.0f} seconds; the old ones retire "
            f"{overlap} seconds later."
        )
    return exit_codes.OK


def _settings() -> Settings:
    from app.settings import load_settings

    return load_settings()


def _ring_file(settings: AuthSettings) -> Path:
    if settings.jwt_secret is not None or settings.key_ring_file is None:
        mistake = "a single secret has no keys to list or rotate; use PHOTO_API_AUTH__KEY_RING_FILE instead"
        raise ConfigurationError([f"PHOTO_API_AUTH__JWT_SECRET: {mistake}"])
    path = settings.key_ring_file
    if not path.exists():
        maker = "the first python -m app serve (or make run) makes it; in the production profile you bring it"
        raise ConfigurationError([f"PHOTO_API_AUTH__KEY_RING_FILE: there is no {path} yet: {maker}"])
    return path


def _row(ring: str, key: RingKey, now: dt.datetime) -> dict[str, Any]:
    state = "retired" if key.is_retired(now) else "active" if key.is_active(now) else "waiting"
    retire_at = None if key.retire_at is None else key.retire_at.isoformat(timespec="seconds")
    return {
        "ring": ring,
        "kid": key.kid,
        "state": state,
        "not_before": key.not_before.isoformat(timespec="seconds"),
        "retire_at": retire_at,
    }
