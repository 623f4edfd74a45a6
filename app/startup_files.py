"""The files that settings name, as far as each worker will read them: can they be used?

They are looked at together with the settings, when nothing is written, and again at start. Not here: secrets given as
files (``settings_sources``), ``stability.toml`` (``pipelines``), folders (``startup``), and nginx's certificate,
which only nginx reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import ConfigurationError
from app.settings import DEFAULT_KEY_RING_FILE

if TYPE_CHECKING:
    from app.settings import Settings
    from app.settings_delivery import CdnSettings

_RING = "PHOTO_API_AUTH__KEY_RING_FILE"


def find_file_mistakes(settings: Settings, *, make: bool = False) -> Iterator[str]:
    """Yield what is wrong with files, one line each, without anything that stands in them.

    Args:
        settings: Whose single values are sound.
        make: Make the key ring where the server makes it, so that it is known whether it can.
    """
    yield from _ring_mistakes(settings, make=make)
    yield from _key_mistakes(settings.cdn)


def _ring_mistakes(settings: Settings, *, make: bool) -> Iterator[str]:
    file = settings.auth.key_ring_file
    if settings.auth.jwt_secret is not None or file is None:
        return
    is_made_here = settings.profile != "production"
    if os.path.lexists(file) or (is_made_here and make):
        yield from _reading_mistakes(file, make=is_made_here and make)
    elif not is_made_here:
        yield (
            f"{_RING}: there is no such file, and in production nobody makes it. Copy that of another instance, "
            "or take one that a start in the development profile has made"
        )
    elif not _is_default(file) and not _can_be_made(file):
        yield f"{_RING}: the file cannot be made there. Name a folder that the server may write to"


def _reading_mistakes(file: Path, *, make: bool) -> Iterator[str]:
    from app.accounts.ring_file import create_ring_file, read_ring_file  # noqa: PLC0415  # loads SQLAlchemy

    try:
        if make:
            create_ring_file(file)
        read_ring_file(file)
    except ConfigurationError as error:
        yield from error.mistakes


def _is_default(file: Path) -> bool:
    # Of var, where it is by default, the start says by itself that it cannot be written.
    return file.parts[-len(DEFAULT_KEY_RING_FILE.parts) :] == DEFAULT_KEY_RING_FILE.parts


def _can_be_made(file: Path) -> bool:
    # A path through a file, or into a folder that may not be looked into, exists nowhere.
    folder = next(parent for parent in file.parents if os.path.lexists(parent))
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _key_mistakes(cdn: CdnSettings) -> Iterator[str]:
    if cdn.backend != "cloudfront" or cdn.cloudfront_private_key_file is None:  # that it must be set is a rule
        return
    from app.cdn.cloudfront import load_private_key  # noqa: PLC0415  # boto3 takes a while and much memory

    try:
        load_private_key(cdn.cloudfront_private_key_file)
    except ConfigurationError as error:
        yield from error.mistakes
