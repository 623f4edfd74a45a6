"""Bytes that nginx sends itself: when an answer names them instead of having them, and how.

nginx asks with ``X-Sendfile-Type: X-Accel-Redirect`` (``app.http.proxies`` removes that of everybody else). What is
to be sent is then named by a path that exists within nginx only::

    X-Accel-Redirect: /.bytes/local/<folder>/<sha256>      a file of the local store
    X-Accel-Redirect: /.bytes/storage/<object key>         an object, or nginx's own copy of it, and
    X-Photo-Upstream: <query of a presigned link>          what lets nginx fetch it
    X-Photo-Bytes: <size>                                  how many bytes a copy must have to be kept

nginx keeps the answer's other headers and cuts ranges out by itself. Those that it would send with every later answer
to the same request, an error's too, are named ``X-Photo-…``; it gives them their names back with the bytes. When it
cannot fetch the bytes it asks again without ``X-Sendfile-Type``, and they are streamed from here or the failure is
answered from here. See ADR 0028.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from app.db.base import utc_now
from app.errors import UnavailableError
from app.http.proxies import SENDFILE_TYPE
from app.storage.base import ObjectStore
from app.storage.links import FileStore, PresignedStore, find_capability

LOCAL_PATH: Final = "/.bytes/local/"
"""Where nginx has the local store's objects."""

STORAGE_PATH: Final = "/.bytes/storage/"
"""Where nginx has objects by their keys."""

LINK_SECONDS: Final = 90
"""How long a link to an object lives that nginx is given."""

LINK_WINDOW_SECONDS: Final = 30
"""For so long the same link is given, so that little of it has to be computed; it lives 60 seconds more at least."""

STICKY: Final = ("Cache-Control", "Content-Disposition", "Accept-Ranges")
"""Headers that nginx takes over from an answer with ``X-Accel-Redirect``, and cannot get rid of."""

_TYPE = "x-accel-redirect"
_OWN_CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE")  # nginx would judge them by the file's facts
_PLAIN_RANGE = re.compile(r"bytes=(?:\d{1,18}-\d{0,18}|-\d{1,18})", re.ASCII)


class Acceleration:
    """Names to nginx what it can send by itself. Thread-safe; makes no call but for a look at a file's size.

    Args:
        store: The object store; what it can do besides the port decides the way.
        now: The wall clock.
    """

    def __init__(self, store: ObjectStore, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._files = find_capability(store, FileStore)
        self._links = None if self._files is not None else find_capability(store, PresignedStore)
        self._now = now

    def headers_for(
        self,
        environ: Mapping[str, Any],
        key: str,
        headers: Mapping[str, str],
        *,
        sha256: str,
        content_type: str,
        size_bytes: int,
        is_partial: bool,
    ) -> dict[str, str] | None:
        """Return the headers of an answer that nginx sends, or None when the bytes are to be streamed from here.

        Args:
            environ: Of the request (WSGI).
            key: The object's key; of an object that is no file of this host nothing is looked at.
            headers: What the answer says besides length and range.
            sha256: The digest of the object, lower-case hex.
            content_type: Its media type.
            size_bytes: Its size.
            is_partial: Whether the request's range is what it gets.
        """
        if not _is_for_nginx(environ, is_partial=is_partial):
            return None
        if self._files is not None:
            if not self._files.holds(key, sha256=sha256, size_bytes=size_bytes):
                return None  # nginx would send what there is as if it were whole
            place = quote(f"{LOCAL_PATH}{self._files.folder_of(key)}/{sha256}", safe="/,~")
            return {"X-Accel-Redirect": place, **_kept(headers, is_partial=is_partial)}
        query = self._query(key, content_type)
        if query is None:
            return None
        return {
            "X-Accel-Redirect": STORAGE_PATH + key,
            "X-Photo-Upstream": query,
            "X-Photo-Bytes": str(size_bytes),
            **_kept(headers, is_partial=is_partial),
        }

    def _query(self, key: str, content_type: str) -> str | None:
        if self._links is None:
            return None
        now = int(self._now().timestamp())
        begins = dt.datetime.fromtimestamp(now - now % LINK_WINDOW_SECONDS, dt.UTC)
        ends = begins + dt.timedelta(seconds=LINK_SECONDS)
        try:
            url = self._links.presigned_get(key, expires_at=ends, issued_at=begins, content_type=content_type)
        except UnavailableError:
            return None
        return urlsplit(url).query


def _kept(headers: Mapping[str, str], *, is_partial: bool) -> dict[str, str]:
    """Return headers under the names by which nginx is told of them."""
    # Of ranges nginx speaks itself with a whole, and not at all with a part.
    said = {**headers, "Accept-Ranges": "bytes"} if is_partial else headers
    return {f"X-Photo-{name}" if name in STICKY else name: value for name, value in said.items()}


def _is_for_nginx(environ: Mapping[str, Any], *, is_partial: bool) -> bool:
    """Tell whether our nginx asks, and for something that it answers exactly as this server would."""
    if environ["REQUEST_METHOD"] != "GET" or environ.get(SENDFILE_TYPE, "").lower() != _TYPE:
        return False
    if any(name in environ for name in _OWN_CONDITIONS):
        return False
    asked = environ.get("HTTP_RANGE")
    return asked is None or (is_partial and _PLAIN_RANGE.fullmatch(asked) is not None)
