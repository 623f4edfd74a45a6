"""Photos as JSON: what :class:`~app.photos.schemas.PhotoView` describes, written without building the model.

The columns stand in the order of the document, so that a row becomes one in a single step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

from app.http import conditional
from app.images.presets import Presets
from app.photos.models import Photo, PhotoPlace

GEO_SCOPE = "photos:geo"
"""Who has it sees where photos were taken."""

_FORM_DIGITS = 8

_SHOWN = (
    Photo.id,
    Photo.state,
    Photo.content_type,
    Photo.size_bytes,
    Photo.width,
    Photo.height,
    Photo.sha256,
    Photo.title,
    Photo.description,
    Photo.tags,
    Photo.favorite,
    Photo.taken_at,
    Photo.created_at,
    Photo.updated_at,
    Photo.trashed_at,
    Photo.camera,
    Photo.original_filename,
)
COLUMNS: tuple[Any, ...] = (*_SHOWN, Photo.frames, Photo.version)
"""What a query selects whose rows become documents."""

PLACE_COLUMNS: tuple[Any, ...] = (PhotoPlace.latitude, PhotoPlace.longitude)
"""What a query selects besides, joined from outside, where a caller may know where photos were taken."""

_NAMES = tuple(column.key for column in _SHOWN)


class PhotoDocuments:
    """Writes photos as documents, and tells which of them are alike. Thread-safe.

    Args:
        presets: The sizes that links lead to, in the versions they are made in now.

    Attributes:
        form: Another one for each form of document: so that no tag and no cache takes one for the other.
    """

    def __init__(self, presets: Presets) -> None:
        self._renditions = [
            (preset.name, f"/renditions/{preset.name}?v={presets.version(preset.name)}") for preset in presets
        ]
        self.form = conditional.tag_of(orjson.dumps([_NAMES, self._renditions]))
        self._form = self.form[:_FORM_DIGITS]

    def document(self, photo: Any, *, with_place: bool) -> dict[str, Any]:
        """Return a photo as a document for :func:`write_json`.

        Args:
            photo: A row of :data:`COLUMNS`, and of :data:`PLACE_COLUMNS` where the place is wanted.
            with_place: Whether the caller may know where it was taken.
        """
        document: dict[str, Any] = dict(zip(_NAMES, photo, strict=False))  # the columns behind them are not shown
        path = "/api/v1/photos/" + orjson.dumps(photo.id)[1:-1].decode()  # a fourth of what str() takes for a UUID
        document["animated"] = photo.frames > 1
        document["thumbhash"] = document["dominant_color"] = None
        links = {"self": path, "original": f"{path}/original"}
        for name, ending in self._renditions:
            links[name] = path + ending
        document["links"] = links
        if with_place and photo.latitude is not None:
            document["place"] = {"latitude": photo.latitude, "longitude": photo.longitude}
        return document

    def entity_tag(self, version: int, scopes: Collection[str]) -> str:
        """Return the entity tag of a photo's document as a caller with these scopes sees it, without quotes."""
        return f"v{version}-{self._form}-place" if GEO_SCOPE in scopes else f"v{version}-{self._form}"

    def page_tag(self, photos: Iterable[Any], next_cursor: str | None, scopes: Collection[str]) -> str:
        """Return the entity tag of a page as a caller with these scopes sees it, without quotes.

        It is made of what the page follows from, which photos in which versions, so that an unchanged page is known
        before it is written.

        Args:
            photos: Rows of :data:`COLUMNS`.
            next_cursor: As the page says it.
            scopes: Of the caller.
        """
        facts = [self.form, next_cursor, GEO_SCOPE in scopes, [(photo.id, photo.version) for photo in photos]]
        return conditional.tag_of(orjson.dumps(facts))


def write_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON; instants end in ``Z``."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)
