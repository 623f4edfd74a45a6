"""The route of renditions: which one a request is for; the answer is :mod:`app.renditions.serving_routes`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from flask import Response, request

from app.errors import NotFoundError
from app.http.identity import Principal
from app.http.operations import Reply, get
from app.images.presets import Format, Preset, Presets
from app.photos.service import PhotoService
from app.renditions import serving_routes as serving
from app.renditions.negotiation import rank_formats
from app.renditions.schemas import RenditionQuery
from app.renditions.serving_routes import RenditionServing

_OF_CALLER: Final = "Authorization, X-Api-Key"
_FOR_EVER: Final = "private, max-age=31536000, immutable, no-transform"
_FOR_NOW: Final = "private, max-age=3600, no-transform"


class RenditionRoutes:
    """``/api/v1/photos/{id}/renditions/{preset}``.

    Args:
        photos: Whose photo it is, and its facts.
        presets: The sizes.
        serving: Who answers with a rendition.
    """

    def __init__(self, photos: PhotoService, presets: Presets, serving: RenditionServing) -> None:
        self._photos = photos
        self._presets = presets
        self._serving = serving

    @get(
        "/api/v1/photos/<uuid:photo_id>/renditions/<preset>",
        summary="Download the photo in a size for screens",
        access="photos:read",
        answers=serving.ANSWERS,
        sends=serving.SENDS,
        headers=serving.HEADERS,
        problems=serving.PROBLEMS,
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
        return self._serving.answer(photo, size, _formats(query), self._caching(query, size))

    def _caching(self, query: RenditionQuery, size: Preset) -> dict[str, str]:
        is_present = query.v == self._presets.version(size.name)
        return {
            "Cache-Control": _FOR_EVER if is_present else _FOR_NOW,
            "Vary": _OF_CALLER if query.format is not None else f"Accept, {_OF_CALLER}",
        }


def _formats(query: RenditionQuery) -> Sequence[Format]:
    """Return what the client takes, best first."""
    if query.format is not None:
        return (Format(query.format),)
    return rank_formats(request.headers.get("Accept"))
