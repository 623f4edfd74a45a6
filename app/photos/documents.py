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

_MARK_DIGITS = 10

_SHOWN = (
    Photo.id,
    Photo.state,
    Photo.content_type,
    Photo.size_bytes,
    Photo.width,
    Photo.height,
    Photo.sha256,
    Photo.thumbhash,
    Photo.dominant_color,
    Photo.processing_state,
    Photo.processing_error,
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

_FOUND_OUT = ("thumbhash", "dominant_color", "processing_state", "processing_error")
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

    def document(self, photo: Any, *, with_place: bool) -> dict[str, Any]:
        """Return a photo as a document for :func:`write_json`.

        Args:
            photo: A row of :data:`COLUMNS`, and of :data:`PLACE_COLUMNS` where the place is wanted.
            with_place: Whether the caller may know where it was taken.
        """
        document: dict[str, Any] = dict(zip(_NAMES, photo, strict=False))  # the columns behind them are not shown
        path = "/api/v1/photos/" + orjson.dumps(photo.id)[1:-1].decode()  # a fourth of what str() takes for a UUID
        document["animated"] = photo.frames > 1
        links = {"self": path, "original": f"{path}/original"}
        for name, ending in self._renditions:
            links[name] = path + ending
        document["links"] = links
        if with_place and photo.latitude is not None:
            document["place"] = {"latitude": photo.latitude, "longitude": photo.longitude}
        return document

    def mark(self, document: Mapping[str, Any], version: int) -> str:
        """Return what is another one for each document of a photo: its version, and what was found out of it.

        What the server finds out makes no other version, or the first change after an upload would be refused
        because the photo was described meanwhile.

        Args:
            document: What it is a mark of.
            version: The photo's; grows with every change that its owner makes.
        """
        found = [self.form, *map(document.get, _FOUND_OUT)]  # one that is replayed may be older than these
        return version_prefix(version) + conditional.tag_of(orjson.dumps(found))[:_MARK_DIGITS]

    def page_tag(self, photos: Iterable[Any], next_cursor: str | None, scopes: Collection[str]) -> str:
        """Return the entity tag of a page as a caller with these scopes sees it, without quotes.

        It is made of what the page follows from, which photos in which versions, so that an unchanged page is known
        before it is written.

        Args:
            photos: Rows of :data:`COLUMNS`.
            next_cursor: As the page says it.
            scopes: Of the caller.
        """
        shown = [(photo.id, photo.version, *(getattr(photo, name) for name in _FOUND_OUT)) for photo in photos]
        return conditional.tag_of(orjson.dumps([self.form, next_cursor, GEO_SCOPE in scopes, shown]))


def entity_tag(mark: str, *, tells_place: bool) -> str:
    """Return the entity tag of a photo's document, without quotes.

    Args:
        mark: Of the document.
        tells_place: Whether it tells where the photo was taken.
    """
    return f"{mark}-place" if tells_place else mark


def version_prefix(version: int) -> str:
    """Return what the entity tags of all documents of a photo's version begin with."""
    return f"v{version}-"


def write_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON; instants end in ``Z``."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)
