"""The route of originals: conditions, ranges, headers; the bytes are :mod:`app.photos.originals`'s."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import quote
from uuid import UUID

from flask import Response, request
from werkzeug.http import http_date

from app.errors import NotFoundError, RangeNotSatisfiableError
from app.http import conditional
from app.http.identity import Principal
from app.http.operations import Media, Reply, get
from app.http.ranges import ByteRange, parse_range
from app.photos.originals import OriginalStream, ServingObserver
from app.photos.service import PhotoRow, PhotoService
from app.storage.base import ObjectCorruptError, ObjectNotFoundError, ObjectStore, StorageTimeoutError


class OriginalRoutes:
    """``/api/v1/photos/{id}/original``.

    Args:
        photos: Whose photo it is, and its facts.
        store: Where the bytes are.
        observer: Who hears of what is served.
    """

    def __init__(self, photos: PhotoService, store: ObjectStore, observer: ServingObserver) -> None:
        self._photos = photos
        self._store = store
        self._observer = observer

    @get(
        "/api/v1/photos/<uuid:photo_id>/original",
        summary="Download the original",
        access="photos:read",
        answers={
            200: Media(("image/*",), "The bytes as they were uploaded."),
            206: Media(("image/*",), "One range of them."),
            304: None,
        },
        sends={
            200: ("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition"),
            206: ("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition", "Content-Range"),
            304: ("ETag",),
        },
        headers={
            "Range": "One range of bytes; several are answered with the whole.",
            "If-Range": "An ETag or date: the range only while the photo is still that one.",
            "If-None-Match": "The ETag you have; 304 when nothing has changed.",
            "If-Modified-Since": "The date you have it from; 304 when nothing has changed.",
        },
        problems=(
            NotFoundError,
            RangeNotSatisfiableError,
            ObjectNotFoundError,
            ObjectCorruptError,
            StorageTimeoutError,
        ),
    )
    def original(self, principal: Principal, photo_id: UUID) -> Reply | Response:
        """Download the bytes exactly as they were uploaded."""
        row = self._photos.get_original(principal.user_id, photo_id)
        if conditional.is_unchanged(row.sha256, row.created_at):
            self._observer.conditional_request(current=True)
            return Reply(304, None, _validators(row))
        if conditional.has_condition():
            self._observer.conditional_request(current=False)
        headers = {**_validators(row), **_headers_of(row)}
        span = _wanted_range(row)
        headers["Content-Length"] = str(span.length if span else row.size_bytes)
        if span is not None:
            headers["Content-Range"] = span.content_range(row.size_bytes)
        body = None if request.method == "HEAD" else self._stream(row, span)
        response = Response(
            None, 206 if span else 200, headers, content_type=row.content_type, direct_passthrough=True
        )
        if body is not None:
            response.response = body
        return response

    def _stream(self, row: PhotoRow, span: ByteRange | None) -> OriginalStream:
        opening = partial(self._store.open, row.object_key)
        if span is not None:
            opening = partial(opening, start=span.start, length=span.length)
        stream = OriginalStream(opening, sha256=row.sha256, observer=self._observer)
        try:
            stream.open()
        except BaseException:
            stream.close()
            raise
        return stream


def _wanted_range(row: PhotoRow) -> ByteRange | None:
    """Return the range to answer; RFC 9110 knows ranges for GET only."""
    if request.method != "GET" or not conditional.is_range_current(row.sha256, row.created_at):
        return None
    return parse_range(request.headers.get("Range"), row.size_bytes)


def _validators(row: PhotoRow) -> dict[str, str]:
    """Return what a 304 says, too (RFC 9110, 15.4.5)."""
    return {
        "ETag": conditional.quoted(row.sha256),
        "Cache-Control": "private, max-age=86400, no-transform",
        "Vary": "Authorization, X-Api-Key",
    }


def _headers_of(row: PhotoRow) -> dict[str, str]:
    return {
        "Last-Modified": http_date(row.created_at),
        "Content-Disposition": _disposition(row),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }


def _disposition(row: PhotoRow) -> str:
    """Return RFC 6266: an ASCII name for all, the full one for those who read ``filename*`` (RFC 8187)."""
    extension = row.content_type.removeprefix("image/").replace("jpeg", "jpg")
    name = row.original_filename or f"{row.id}.{extension}"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
