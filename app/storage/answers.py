"""What an HTTP server says of objects, read into this product's terms: what S3 and Swift have in common.

Not here: what one protocol adds (``s3_answers.py``, ``swift_answers.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPResponse
from types import MappingProxyType
from typing import Final

from app.stability import parse_retry_after
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)

ERROR_BYTES: Final = 64 * 1024
"""How much of a refusing answer's body is read."""

_RETRY_AFTER_SECONDS = 2.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes [0-9]{1,19}-[0-9]{1,19}/([0-9]{1,19})")
_SIZE = re.compile(r"[0-9]{1,19}")

_RATE_LIMITED_BY_SWIFT = 498
KIND_BY_STATUS: Final[Mapping[int, type[StorageError]]] = MappingProxyType(
    {
        **dict.fromkeys(range(500, 600), StorageUnavailableError),
        HTTPStatus.NOT_FOUND: ObjectNotFoundError,
        HTTPStatus.REQUEST_TIMEOUT: StorageTimeoutError,
        HTTPStatus.CONFLICT: ObjectExistsError,
        HTTPStatus.PRECONDITION_FAILED: ObjectExistsError,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StorageFullError,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ObjectCorruptError,
        HTTPStatus.TOO_MANY_REQUESTS: StorageThrottledError,
        _RATE_LIMITED_BY_SWIFT: StorageThrottledError,
        HTTPStatus.NOT_IMPLEMENTED: StorageDeniedError,
        HTTPStatus.INSUFFICIENT_STORAGE: StorageFullError,
    }
)
"""What a status means. All others (401, 403, a redirect to another region, a request that is malformed for this
server) are :class:`StorageDeniedError`: the same request fails again."""

_DETAILS: dict[type[StorageError], str] = {
    StorageDeniedError: "The object store refuses this server; its operator must act.",
    StorageFullError: "The object store is full.",
    StorageTimeoutError: "The object store did not get the bytes in time. Try again.",
    StorageUnavailableError: "The object store is not available now. Try again.",
    StorageThrottledError: "The object store is busy. Try again later.",
    ObjectCorruptError: "The object store has other bytes than it should have.",
    ObjectExistsError: "There is another object under this key.",
    ObjectNotFoundError: "The stored object is missing.",
}


def error_of(kind: type[StorageError], retry_after: str | None = None) -> StorageError:
    """Return the error of a kind, with the words that clients are told; the caller raises it.

    Args:
        kind: What the answer means.
        retry_after: Its ``Retry-After`` header, in seconds or as a date.
    """
    asked = parse_retry_after(retry_after)
    if kind is StorageUnavailableError and asked is not None:
        kind = StorageThrottledError  # a 503 that says when to come back
    if kind is StorageThrottledError:
        return kind(_DETAILS[kind], retry_after_seconds=asked)
    return kind(_DETAILS[kind], retry_after_seconds=_RETRY_AFTER_SECONDS if kind is StorageUnavailableError else None)


def read_sha256(text: str | None) -> str | None:
    """Return a digest that a header states; None where it states none."""
    return text if text is not None and _SHA256.fullmatch(text) else None


def read_facts(key: str, response: HTTPResponse, *, sha256: str | None) -> ObjectInfo:
    """Return an object's facts from the headers of an answer to HEAD or GET, of a part of it, too.

    Args:
        key: Of the object.
        response: The answer.
        sha256: What the protocol's own header states.

    Raises:
        StorageUnavailableError: The headers lack what is promised.
    """
    headers = response.headers
    matched = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = matched[1] if matched else headers.get("Content-Length", "")
    try:
        modified_at = parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC)
    except (OverflowError, TypeError, ValueError) as error:
        raise not_understood() from error
    if _SIZE.fullmatch(size) is None:
        raise not_understood()
    return ObjectInfo(key=key, size_bytes=int(size), sha256=sha256, modified_at=modified_at)


def not_understood() -> StorageUnavailableError:
    """Return the error for an answer that makes no sense; the caller raises it."""
    return StorageUnavailableError("The object store's answer is not understood. Try again.")
