"""What answering with a rendition takes: it is found or made, and then served like an original.

Who takes several formats gets the best one that is stored or may be made. While memory is short that may be another
one than usual, and then nobody keeps the answer without asking again.

How an answer looks, with its conditions and ranges, is :mod:`app.photos.serving_routes`'s.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, Protocol, TypeVar

from flask import Response

from app.errors import ImageLimitError, PhotoApiError, SpoolFullError, UndecodableImageError
from app.http.operations import Media, Reply
from app.images.jobs import HeifNotInstalledError
from app.images.presets import Format, Preset
from app.photos import serving_routes as serving
from app.photos.photo_cache import Original
from app.photos.serving_routes import PhotoServing, ServedPhoto
from app.renditions.service import NotMadeNowError
from app.storage.base import ObjectCorruptError, ObjectNotFoundError

_CONTENT_TYPES: Final = tuple(each.content_type for each in Format)
_ASKED_AGAIN: Final = {"Cache-Control": "private, no-cache, no-transform"}
"""How an answer is kept that would be another one if there were memory: its link may be one that holds for ever."""

ANSWERS: Final[Mapping[int, Media | None]] = {
    200: Media(_CONTENT_TYPES, "The photo in this size: upright, sRGB, without metadata."),
    206: Media(_CONTENT_TYPES, "One range of it."),
    304: None,
}
"""What such a route answers, for its operation."""

SENDS: Final = {status: (*names, "Vary") for status, names in serving.SENDS.items()}
"""Headers of these answers."""

HEADERS: Final = {"Accept": "AVIF and WebP for who names them, by q-values; JPEG for all others.", **serving.HEADERS}
"""Headers of requests that matter."""

PROBLEMS: Final[tuple[type[PhotoApiError], ...]] = (
    *serving.PROBLEMS,
    UndecodableImageError,
    HeifNotInstalledError,
    ImageLimitError,
    SpoolFullError,
)
"""What may go wrong."""


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

    def get_best(self, photo: Original, preset: Preset, formats: Sequence[Format]) -> tuple[Format, MadeT]:
        """Return a rendition in the first of some formats in which it is there or may be made now, and that format.

        Raises:
            UndecodableImageError: The photo's pixels cannot be decoded.
            NotMadeNowError: It is there in none of them, and too little memory is left.
            UnavailableError: It cannot be made now.
            StorageError: The original cannot be read.
        """
        ...

    def make_anew(
        self, photo: Original, preset: Preset, image_format: Format, lost: MadeT, *, is_damaged: bool
    ) -> MadeT:
        """Return a rendition in place of one that the store has lost or damaged.

        Raises what :meth:`get_best` raises.
        """
        ...


class RenditionServing:
    """Answers the current request with a rendition. Thread-safe.

    Args:
        renditions: Makes them.
        serving: Who answers with bytes.
    """

    def __init__(self, renditions: Renditions[Any], serving: PhotoServing) -> None:
        self._renditions = renditions
        self._serving = serving

    def answer(
        self, photo: Original, size: Preset, formats: Sequence[Format], caching: Mapping[str, str]
    ) -> Reply | Response:
        """Return 200, 206 or 304 with a rendition; one that the store has lost or damaged is made anew.

        Where it may not be made anew now, the client gets the next format.

        Args:
            photo: The original; that the caller may see it was settled before.
            size: Of the rendition.
            formats: What the client takes, best first; one at least.
            caching: As of :meth:`app.photos.serving_routes.PhotoServing.answer`, for the best one.

        Raises:
            PreconditionFailedError: The client goes on with other bytes.
            RangeNotSatisfiableError: No byte of the range exists.
            UndecodableImageError: The photo's pixels cannot be decoded.
            UnavailableError: It cannot be made now.
            StorageError: The original, or the rendition, cannot be read.
            NotFoundError: The photo has been removed elsewhere.
        """
        with self._serving.while_there(photo.object_key):
            return self._answer(photo, size, formats, caching)

    def _answer(
        self, photo: Original, size: Preset, formats: Sequence[Format], caching: Mapping[str, str]
    ) -> Reply | Response:
        chosen, made = self._renditions.get_best(photo, size, formats)
        kept = caching if chosen is formats[0] else {**caching, **_ASKED_AGAIN}
        try:
            return self._serving.answer(_served(photo, size, chosen, made), kept)
        except (ObjectNotFoundError, ObjectCorruptError) as error:
            is_damaged = isinstance(error, ObjectCorruptError)
        try:
            made = self._renditions.make_anew(photo, size, chosen, made, is_damaged=is_damaged)
        except NotMadeNowError:
            others = formats[formats.index(chosen) + 1 :]
            if not others:
                raise
            return self._answer(photo, size, others, {**caching, **_ASKED_AGAIN})
        return self._serving.answer(_served(photo, size, chosen, made), kept)


def _served(photo: Original, size: Preset, image_format: Format, made: StoredRendition) -> ServedPhoto:
    stem = PurePath(photo.original_filename or "").stem or str(photo.id)
    return ServedPhoto(
        object_key=made.object_key,
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        content_type=image_format.content_type,
        modified_at=made.created_at,
        filename=f"{stem}-{size.name}.{image_format.extension}",
        content=made.content,
    )
