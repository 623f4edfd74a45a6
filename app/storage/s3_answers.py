"""What an S3 server says, read into this product's terms: facts, pages of a listing, errors.

Not here: sending (``connections.py``) and what is asked (``s3.py``).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPResponse

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
    is_valid_key,
)

_ERROR_BYTES = 64 * 1024
_PAGE_BYTES = 8 * 1024 * 1024
_RETRY_AFTER_SECONDS = 2.0
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,100})</Code>")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_KIND_BY_CODE: dict[str, type[StorageError]] = {
    "NoSuchBucket": StorageDeniedError,
    "EntityTooLarge": StorageFullError,
    "QuotaExceeded": StorageFullError,
    "XMinioStorageFull": StorageFullError,
    "BadDigest": ObjectCorruptError,
    "InvalidDigest": ObjectCorruptError,
    "IncompleteBody": ObjectCorruptError,
    "XAmzContentSHA256Mismatch": ObjectCorruptError,
    "RequestTimeout": StorageTimeoutError,
    "SlowDown": StorageThrottledError,
}
"""What a code means, whatever the status is."""

_SWIFT_RATE_LIMITED = 498
_KIND_BY_STATUS: dict[int, type[StorageError]] = {
    **dict.fromkeys(range(500, 600), StorageUnavailableError),
    HTTPStatus.NOT_FOUND: ObjectNotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: StorageTimeoutError,
    HTTPStatus.CONFLICT: ObjectExistsError,
    HTTPStatus.PRECONDITION_FAILED: ObjectExistsError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StorageFullError,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ObjectCorruptError,
    HTTPStatus.TOO_MANY_REQUESTS: StorageThrottledError,
    _SWIFT_RATE_LIMITED: StorageThrottledError,
    HTTPStatus.NOT_IMPLEMENTED: StorageDeniedError,
    HTTPStatus.INSUFFICIENT_STORAGE: StorageFullError,
}
"""What a status means when the code says nothing. All others (401, 403, a redirect to another region, a
request that is malformed for this server) are :class:`StorageDeniedError`: the same request fails again."""

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


class S3AnswerError(Exception):
    """What the server answered, for the operator's log; it is the ``__cause__`` of a storage error.

    Args:
        status: The HTTP status.
        code: The S3 error code, empty where the answer has none.
        request_id: The server's own id of the request, for its operator.
    """

    def __init__(self, status: int, code: str, request_id: str) -> None:
        super().__init__(f"the object store answered {status} {code or 'without a code'} (request {request_id})")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    Attributes:
        objects: In key order; keys that this product cannot have made are left out.
        continuation: Where the next page starts, None on the last one.
    """

    objects: tuple[ObjectInfo, ...]
    continuation: str | None


def read_answer_error(response: HTTPResponse) -> S3AnswerError:
    """Return what a refusing response says; some of its body is read."""
    match = _CODE.search(response.read(_ERROR_BYTES))
    request_id = response.headers.get("x-amz-request-id", "unknown")
    return S3AnswerError(response.status, match[1].decode() if match else "", request_id[:100])


def storage_error(answer: S3AnswerError, retry_after: str | None = None) -> StorageError:
    """Return the storage error that an answer means.

    Args:
        answer: What the server said.
        retry_after: Its ``Retry-After`` header, in seconds or as a date.
    """
    kind = _KIND_BY_CODE.get(answer.code) or _KIND_BY_STATUS.get(answer.status, StorageDeniedError)
    asked = parse_retry_after(retry_after)
    if kind is StorageUnavailableError and asked is not None:
        kind = StorageThrottledError  # a 503 that says when to come back
    if kind is StorageThrottledError:
        return kind(_DETAILS[kind], retry_after_seconds=asked)
    return kind(_DETAILS[kind], retry_after_seconds=_RETRY_AFTER_SECONDS if kind is StorageUnavailableError else None)


def read_info(key: str, response: HTTPResponse) -> ObjectInfo:
    """Return an object's facts from the headers of an answer to HEAD or GET.

    Raises:
        StorageUnavailableError: The headers lack what S3 promises.
    """
    headers = response.headers
    matched = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    sha256 = headers.get("x-amz-meta-sha256", "")
    try:
        return ObjectInfo(
            key=key,
            size_bytes=int(matched[3]) if matched else int(headers["Content-Length"]),
            sha256=sha256 if _SHA256.fullmatch(sha256) else None,
            modified_at=parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC),
        )
    except (TypeError, ValueError) as error:
        raise _not_understood() from error


def read_page(response: HTTPResponse) -> Page:
    """Return a page of ``ListObjectsV2``.

    Raises:
        StorageUnavailableError: The answer is not the XML that S3 promises.
    """
    text = response.read(_PAGE_BYTES)
    try:
        root = ET.fromstring(text)  # noqa: S314 - the configured store; expat bounds entity expansion
        found = [_read_entry(entry) for entry in root.iterfind("{*}Contents")]
        truncated = root.findtext("{*}IsTruncated") == "true"
        continuation = root.findtext("{*}NextContinuationToken")
    except (ET.ParseError, TypeError, ValueError) as error:
        raise _not_understood() from error
    if truncated and not continuation:
        raise _not_understood()
    return Page(tuple(info for info in found if is_valid_key(info.key)), continuation if truncated else None)


def _read_entry(entry: ET.Element) -> ObjectInfo:
    return ObjectInfo(
        key=entry.findtext("{*}Key") or "",
        size_bytes=int(entry.findtext("{*}Size") or ""),
        sha256=None,
        modified_at=datetime.fromisoformat(entry.findtext("{*}LastModified") or "").astimezone(UTC),
    )


def _not_understood() -> StorageUnavailableError:
    return StorageUnavailableError("The object store's answer is not understood. Try again.")
