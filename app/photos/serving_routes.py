"""What all routes that answer with a photo's bytes have in common: conditions, ranges, headers.

The bytes themselves are :mod:`app.photos.originals`'s.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote

from flask import Response, request
from werkzeug.http import http_date

from app.errors import NotFoundError, PhotoApiError, PreconditionFailedError, RangeNotSatisfiableError
from app.http import conditional
from app.http.operations import Media, Reply
from app.http.ranges import ByteRange, parse_range
from app.photos.acceleration import Acceleration
from app.photos.originals import OriginalStream, ServingObserver
from app.photos.small_originals import SMALL_BYTES, SmallOriginals
from app.storage.base import (
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectReader,
    ObjectStore,
    StorageTimeoutError,
)

ANSWERS: Final[Mapping[int, Media | None]] = {
    200: Media(("image/*",), "The bytes as they were uploaded."),
    206: Media(("image/*",), "One range of them."),
    304: None,
}
"""What such a route answers, for its operation."""

SENDS: Final[Mapping[int, tuple[str, ...]]] = {
    200: ("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition"),
    206: ("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition", "Content-Range"),
    304: ("ETag",),
}
"""Headers of these answers."""

HEADERS: Final[Mapping[str, str]] = {
    "Range": "One range of bytes; several are answered with the whole.",
    "If-Range": "An ETag or date: the range only while the photo is still that one.",
    "If-Match": "The ETag you go on with; 412 when the bytes are others.",
    "If-None-Match": "The ETag you have; 304 when nothing has changed.",
    "If-Modified-Since": "The date you have it from; 304 when nothing has changed.",
}
"""Headers of requests that matter."""

PROBLEMS: Final[tuple[type[PhotoApiError], ...]] = (
    NotFoundError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    ObjectNotFoundError,
    ObjectCorruptError,
    StorageTimeoutError,
)
"""What may go wrong."""


@dataclass(frozen=True, slots=True)
class ServedPhoto:
    """The facts of the bytes to answer with.

    Attributes:
        object_key: Where the store has them.
        sha256: Lower-case hex digest of the whole; the entity tag.
        size_bytes: Of the whole.
        content_type: The media type.
        modified_at: Since when they are these, UTC.
        filename: What a browser calls them when it saves them.
        content: The bytes, where they are in hand; the store is then not asked for them.
    """

    object_key: str
    sha256: str
    size_bytes: int
    content_type: str
    modified_at: dt.datetime
    filename: str
    content: bytes | None = field(default=None, repr=False)


class PhotoServing:
    """Answers the current request with a photo's bytes. Thread-safe.

    Args:
        store: Where the bytes are.
        observer: Who hears of what is served.
        has_object: Tells from the database whether a photo has its bytes under a key.
    """

    def __init__(self, store: ObjectStore, observer: ServingObserver, has_object: Callable[[str], bool]) -> None:
        self._store = store
        self._observer = observer
        self._has_object = has_object
        self._small = SmallOriginals(store, observer)
        self._acceleration = Acceleration(store)

    def answer(self, photo: ServedPhoto, caching: Mapping[str, str]) -> Reply | Response:
        """Return 200, 206 or 304; a HEAD, a 304 and what nginx sends itself ask the store for nothing.

        Args:
            photo: Its facts.
            caching: ``Cache-Control`` and ``Vary`` of this route, and what it says otherwise than the others.

        Raises:
            PreconditionFailedError: The client goes on with other bytes.
            RangeNotSatisfiableError: No byte of the range exists.
            StorageError: The store failed, or the photo is damaged as far as is known by now.
        """
        validators = {"ETag": conditional.quoted(photo.sha256), **caching}  # a 304 says them, too (RFC 9110, 15.4.5)
        conditional.require_current(photo.sha256, photo.modified_at)  # before the others (RFC 9110, 13.2.2)
        if conditional.is_unchanged(photo.sha256, photo.modified_at):
            self._observer.conditional_request(current=True)
            return Reply(304, None, validators)
        if conditional.has_condition():
            self._observer.conditional_request(current=False)
        span = _wanted_range(photo)
        headers = {**_headers_of(photo), **validators}
        named = self._named(photo, headers, is_partial=span is not None)
        if named is not None:
            return Response(None, 200, named, content_type=photo.content_type)
        headers["Accept-Ranges"] = "bytes"
        headers["Content-Length"] = str(span.length if span else photo.size_bytes)
        if span is not None:
            headers["Content-Range"] = span.content_range(photo.size_bytes)
        body = None if request.method == "HEAD" else self._stream(photo, span)
        response = Response(
            None, 206 if span else 200, headers, content_type=photo.content_type, direct_passthrough=True
        )
        if body is not None:
            response.response = body
        return response

    @contextmanager
    def while_there(self, object_key: str) -> Iterator[None]:
        """Surround an answer with bytes that may be remembered for longer than they are there.

        Args:
            object_key: Of the photo.

        Raises:
            NotFoundError: The store has no such object, and no photo has its bytes there any more.
            ObjectNotFoundError: The store has lost the bytes of a photo that is there.
        """
        try:
            yield
        except ObjectNotFoundError:
            if self._has_object(object_key):
                raise
            raise NotFoundError("There is no such photo any more.") from None

    def _named(self, photo: ServedPhoto, headers: Mapping[str, str], *, is_partial: bool) -> dict[str, str] | None:
        """Return the headers by which nginx sends the bytes, or None where they are to be sent from here."""
        if photo.content is not None:
            return None
        return self._acceleration.headers_for(
            request.environ,
            photo.object_key,
            headers,
            sha256=photo.sha256,
            content_type=photo.content_type,
            size_bytes=photo.size_bytes,
            is_partial=is_partial,
        )

    def _stream(self, photo: ServedPhoto, span: ByteRange | None) -> Iterable[bytes]:
        if photo.content is not None:
            return [photo.content if span is None else photo.content[span.start : span.start + span.length]]
        opening: Callable[[], ObjectReader] = partial(self._store.open, photo.object_key)
        if span is not None:
            opening = partial(self._store.open, photo.object_key, start=span.start, length=span.length)
        elif photo.size_bytes <= SMALL_BYTES:
            opening = partial(self._small.open, photo.object_key, sha256=photo.sha256, size_bytes=photo.size_bytes)
        stream = OriginalStream(opening, sha256=photo.sha256, observer=self._observer)
        try:
            stream.open()
        except BaseException:
            stream.close()
            raise
        return stream


def extension_of(content_type: str) -> str:
    """Return the ending of file names for an image's media type, without the dot."""
    return content_type.removeprefix("image/").replace("jpeg", "jpg")


def _wanted_range(photo: ServedPhoto) -> ByteRange | None:
    """Return the range to answer; RFC 9110 knows ranges for GET only."""
    if request.method != "GET" or not conditional.is_range_current(photo.sha256, photo.modified_at):
        return None
    return parse_range(request.headers.get("Range"), photo.size_bytes)


def _headers_of(photo: ServedPhoto) -> dict[str, str]:
    return {
        "Last-Modified": http_date(photo.modified_at),
        "Content-Disposition": _disposition(photo.filename),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


def _disposition(name: str) -> str:
    """Return RFC 6266: an ASCII name for all, the full one for those who read ``filename*`` (RFC 8187)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
