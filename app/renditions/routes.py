"""The route of renditions: which one a request is for; the answer's form is :mod:`app.photos.serving_routes`'s."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from flask import Response, request

from app.errors import ImageLimitError, NotFoundError, PhotoApiError, SpoolFullError, UndecodableImageError
from app.http.identity import Principal
from app.http.operations import Media, Reply, get
from app.images.jobs import HeifNotInstalledError
from app.images.presets import Format, Preset, Presets
from app.photos import serving_routes as serving
from app.photos.photo_cache import Original
from app.photos.service import PhotoService
from app.photos.serving_routes import PhotoServing, ServedPhoto
from app.renditions.negotiation import choose_format
from app.renditions.schemas import RenditionQuery
from app.storage.base import ObjectNotFoundError

_CONTENT_TYPES: Final = tuple(each.content_type for each in Format)
_ANSWERS: Final[Mapping[int, Media | None]] = {
    200: Media(_CONTENT_TYPES, "The photo in this size: upright, sRGB, without metadata."),
    206: Media(_CONTENT_TYPES, "One range of it."),
    304: None,
}
_HEADERS: Final = {"Accept": "AVIF and WebP for who names them, by q-values; JPEG for all others.", **serving.HEADERS}
_PROBLEMS: Final[tuple[type[PhotoApiError], ...]] = (
    *serving.PROBLEMS,
    UndecodableImageError,
    HeifNotInstalledError,
    ImageLimitError,
    SpoolFullError,
)
_OF_CALLER: Final = "Authorization, X-Api-Key"
_FOR_EVER: Final = "private, max-age=31536000, immutable, no-transform"
_FOR_NOW: Final = "private, max-age=3600, no-transform"


class StoredRendition(Protocol):
    """A rendition that is made."""

    @property
    def object_key(self) -> str:
        """Where the store has it, or will."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hex digest of its bytes."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        ...

    @property
    def created_at(self) -> dt.datetime:
        """Since when it is there, UTC."""
        ...

    @property
    def content(self) -> bytes | None:
        """Its bytes, where they have just been made; else None."""
        ...


MadeT = TypeVar("MadeT", bound=StoredRendition)


class Renditions(Protocol[MadeT]):
    """Makes renditions, each once; :class:`app.renditions.service.RenditionService` is one. Thread-safe."""

    def offered(self) -> Collection[Format]:
        """Return the formats that are made at the moment."""
        ...

    def get(self, photo: Original, preset: Preset, image_format: Format) -> MadeT:
        """Return a rendition, which is made if it is not there.

        Raises:
            UndecodableImageError: The photo's pixels cannot be decoded.
            UnavailableError: It cannot be made now.
            StorageError: The original cannot be read.
        """
        ...

    def make_anew(self, photo: Original, preset: Preset, image_format: Format, lost: MadeT) -> MadeT:
        """Return a rendition in place of one that the store has lost. Raises what :meth:`get` raises."""
        ...


class RenditionRoutes:
    """``/api/v1/photos/{id}/renditions/{preset}``.

    Args:
        photos: Whose photo it is, and its facts.
        renditions: Makes them.
        presets: The sizes.
        serving: Who answers with the bytes.
    """

    def __init__(
        self, photos: PhotoService, renditions: Renditions[Any], presets: Presets, serving: PhotoServing
    ) -> None:
        self._photos = photos
        self._renditions = renditions
        self._presets = presets
        self._serving = serving

    @get(
        "/api/v1/photos/<uuid:photo_id>/renditions/<preset>",
        summary="Download the photo in a size for screens",
        access="photos:read",
        answers=_ANSWERS,
        sends={status: (*names, "Vary") for status, names in serving.SENDS.items()},
        headers=_HEADERS,
        problems=_PROBLEMS,
    )
    def rendition(self, principal: Principal, photo_id: UUID, preset: str, query: RenditionQuery) -> Reply | Response:
        """Download the photo as a thumbnail, a preview or in full view, made when it is first asked for.

        It is never larger than the original, upright, in sRGB, and has no metadata. Of an animation it is the first
        picture.
        """
        size = self._presets.find(preset)
        if size is None:
            raise NotFoundError(f"There is no such size. There are {', '.join(each.name for each in self._presets)}.")
        photo = self._photos.get(principal.user_id, photo_id).original
        image_format = self._format(query)
        caching = self._caching(query, size)
        made = self._renditions.get(photo, size, image_format)
        try:
            return self._serving.answer(_served(photo, size, image_format, made), caching)
        except ObjectNotFoundError:
            made = self._renditions.make_anew(photo, size, image_format, made)
            return self._serving.answer(_served(photo, size, image_format, made), caching)

    def _format(self, query: RenditionQuery) -> Format:
        if query.format is not None:
            return Format(query.format)
        return choose_format(request.headers.get("Accept"), self._renditions.offered())

    def _caching(self, query: RenditionQuery, size: Preset) -> dict[str, str]:
        is_present = query.v == self._presets.version(size.name)
        return {
            "Cache-Control": _FOR_EVER if is_present else _FOR_NOW,
            "Vary": _OF_CALLER if query.format is not None else f"Accept, {_OF_CALLER}",
        }


def _served(photo: Original, size: Preset, image_format: Format, made: StoredRendition) -> ServedPhoto:
    name = PurePath(photo.original_filename or str(photo.id))
    return ServedPhoto(
        object_key=made.object_key,
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        content_type=image_format.content_type,
        modified_at=made.created_at,
        filename=f"{name.stem or name}-{size.name}.{image_format.extension}",
        content=made.content,
    )
