"""The route of originals: whose photo it is; the answer is :mod:`app.photos.serving_routes`'s."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from flask import Response

from app.http.identity import Principal
from app.http.operations import Reply, get
from app.photos import serving_routes as serving
from app.photos.service import PhotoService
from app.photos.serving_routes import PhotoServing, ServedPhoto

_CACHING: Final = {
    "Cache-Control": "private, max-age=86400, no-transform",
    "Vary": "Authorization, X-Api-Key",
}


class OriginalRoutes:
    """``/api/v1/photos/{id}/original``.

    Args:
        photos: Whose photo it is, and its facts.
        serving: Who answers with the bytes.
    """

    def __init__(self, photos: PhotoService, serving: PhotoServing) -> None:
        self._photos = photos
        self._serving = serving

    @get(
        "/api/v1/photos/<uuid:photo_id>/original",
        summary="Download the original",
        access="photos:read",
        answers=serving.ANSWERS,
        sends=serving.SENDS,
        headers=serving.HEADERS,
        problems=serving.PROBLEMS,
    )
    def original(self, principal: Principal, photo_id: UUID) -> Reply | Response:
        """Download the bytes exactly as they were uploaded."""
        row = self._photos.get(principal.user_id, photo_id).original
        photo = ServedPhoto(
            object_key=row.object_key,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            content_type=row.content_type,
            modified_at=row.created_at,
            filename=row.original_filename or f"{row.id}.{serving.extension_of(row.content_type)}",
        )
        with self._serving.while_there(photo.object_key):
            return self._serving.answer(photo, _CACHING)
