"""Renditions that are made already: found for many photos at once, for links to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.images.presets import Format, Presets
from app.photos import rendition_rows


@dataclass(frozen=True, slots=True)
class MadeRendition:
    """A rendition that the store has.

    Attributes:
        preset: The name of its size.
        object_key: Where it is.
        sha256: Lower-case hex digest of its bytes.
        content_type: Its media type.
        width: Pixels.
        height: Pixels.
    """

    preset: str
    object_key: str
    sha256: str
    content_type: str
    width: int
    height: int


Found: TypeAlias = Mapping[UUID, Sequence[MadeRendition]]
"""Renditions by the ids of their photos; photos without any are left out."""


class MadeRenditions:
    """Finds renditions. Thread-safe.

    Args:
        database: Where they are written down.
        presets: The versions that count now: what was made in another one is on its way out.
    """

    def __init__(self, database: Database, presets: Presets) -> None:
        self._database = database
        self._versions = {preset.name: presets.version(preset.name) for preset in presets}

    def find(self, photo_ids: Sequence[UUID], image_format: Format) -> Found:
        """Return the renditions of photos in one format.

        While the database does not answer there are none: links to originals do not need it.

        Args:
            photo_ids: The photos; whose they are was settled before.
            image_format: The format.
        """
        try:
            rows = self._database.run_read(lambda connection: rendition_rows.find_all(connection, photo_ids))
        except DatabaseUnavailableError:
            return {}
        found: dict[UUID, list[MadeRendition]] = {}
        for row in rows:
            name, made = row.name, row.made
            if name.format is image_format and self._versions.get(name.preset) == name.version:
                found.setdefault(name.photo_id, []).append(
                    MadeRendition(
                        name.preset, row.object_key, made.sha256, image_format.content_type, made.width, made.height
                    )
                )
        return found
