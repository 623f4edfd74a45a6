"""What a Swift server says, read into this product's terms: facts, pages of a listing, errors.

Not here: sending (``connections.py``), what is asked (``swift.py``) and tokens (``swift_auth.py``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPResponse
from typing import Any, Final

import orjson

from app.stability import parse_retry_after
from app.storage.base import (
    DenialReason,
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

LARGEST_BYTES: Final = 5 * 1024**3
"""What Swift takes as one object; more would have to go up in segments."""

_ERROR_BYTES = 64 * 1024
_PAGE_BYTES = 16 * 1024 * 1024
_RETRY_AFTER_SECONDS = 2.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MD5 = re.compile(r'(?:W/)?(?:"([0-9A-Fa-f]{32})"|([0-9A-Fa-f]{32}))')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_SIZE = re.compile(r"\d{1,19}")
_TRANSACTION = re.compile(r"[A-Za-z0-9._-]{1,100}")

_RATE_LIMITED = 498
_CLIENT_DISCONNECTED = 499
_KIND_BY_STATUS: dict[int, type[StorageError]] = {
    **dict.fromkeys(range(500, 600), StorageUnavailableError),
    HTTPStatus.NOT_FOUND: ObjectNotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: StorageTimeoutError,
    HTTPStatus.CONFLICT: ObjectExistsError,
    HTTPStatus.PRECONDITION_FAILED: ObjectExistsError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StorageFullError,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ObjectCorruptError,
    HTTPStatus.UNPROCESSABLE_ENTITY: ObjectCorruptError,
    HTTPStatus.TOO_MANY_REQUESTS: StorageThrottledError,
    _RATE_LIMITED: StorageThrottledError,
    _CLIENT_DISCONNECTED: StorageUnavailableError,
    HTTPStatus.NOT_IMPLEMENTED: StorageDeniedError,
    HTTPStatus.INSUFFICIENT_STORAGE: StorageFullError,
}
"""What a status means. All others (403, a redirect, a request that is malformed for this server) are
:class:`StorageDeniedError`: the same request fails again."""

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


class SwiftAnswerError(DenialReason):
    """What the server answered, for the operator's log; it is the ``__cause__`` of a storage error.

    Args:
        status: The HTTP status.
        transaction: The server's own id of the request, for its operator.
    """

    def __init__(self, status: int, transaction: str) -> None:
        super().__init__(f"the object store answered {status} (transaction {transaction})")
        self.status = status


def read_answer_error(response: HTTPResponse) -> SwiftAnswerError:
    """Return what a refusing response says; some of its body is read, so that its connection may be used again."""
    response.read(_ERROR_BYTES)
    transaction = response.headers.get("X-Trans-Id", "")
    return SwiftAnswerError(response.status, transaction if _TRANSACTION.fullmatch(transaction) else "unknown")


def storage_error(answer: SwiftAnswerError, retry_after: str | None = None) -> StorageError:
    """Return the storage error that an answer means.

    Args:
        answer: What the server said.
        retry_after: Its ``Retry-After`` header, in seconds or as a date.
    """
    kind = _KIND_BY_STATUS.get(answer.status, StorageDeniedError)
    asked = parse_retry_after(retry_after)
    if kind is StorageUnavailableError and asked is not None:
        kind = StorageThrottledError  # a 503 that says when to come back
    if kind is StorageThrottledError:
        return kind(_DETAILS[kind], retry_after_seconds=asked)
    return kind(_DETAILS[kind], retry_after_seconds=_RETRY_AFTER_SECONDS if kind is StorageUnavailableError else None)


def read_etag(headers: Message) -> str | None:
    """Return the MD5 that an answer's ETag states, quoted or not; None where it states none."""
    match = _MD5.fullmatch(headers.get("ETag", ""))
    return None if match is None else (match[1] or match[2]).lower()


def read_info(key: str, response: HTTPResponse) -> ObjectInfo:
    """Return an object's facts from the headers of an answer to HEAD or GET.

    Raises:
        ObjectCorruptError: It is put together from segments and nothing says what its bytes should be.
        StorageUnavailableError: The headers lack what Swift promises.
    """
    headers = response.headers
    matched = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    sha256 = headers.get("X-Object-Meta-Sha256", "")
    is_known = _SHA256.fullmatch(sha256) is not None
    if not is_known and _is_segmented(headers):
        raise ObjectCorruptError("The stored object is in segments and has no digest: this server did not store it.")
    size = matched[3] if matched else headers.get("Content-Length", "")
    try:
        return ObjectInfo(
            key=key,
            size_bytes=_read_size(size),
            sha256=sha256 if is_known else None,
            modified_at=parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC),
        )
    except (OverflowError, TypeError, ValueError) as error:
        raise not_understood() from error


def read_page(response: HTTPResponse, after: str) -> list[ObjectInfo]:
    """Return a page of a container's listing as JSON, other people's keys included; empty at the end.

    Args:
        response: The answer.
        after: The key that every key of the page must come after; a server that turns in circles is found out.

    Raises:
        StorageUnavailableError: The answer is not what Swift promises.
    """
    if response.status == HTTPStatus.NO_CONTENT:
        return []
    text = response.read(_PAGE_BYTES)
    found = []
    try:
        for entry in _list(orjson.loads(text)):
            info = _read_entry(entry)
            if info.key <= after:
                raise not_understood()
            after = info.key
            found.append(info)
    except (KeyError, OverflowError, TypeError, ValueError) as error:  # a JSONDecodeError is a ValueError
        raise not_understood() from error
    return found


def not_understood() -> StorageUnavailableError:
    """Return the error for an answer that makes no sense; the caller raises it."""
    return StorageUnavailableError("The object store's answer is not understood. Try again.")


def _is_segmented(headers: Message) -> bool:
    return headers.get("X-Static-Large-Object", "").lower() == "true" or "X-Object-Manifest" in headers


def _read_entry(entry: Any) -> ObjectInfo:
    name, size = entry["name"], entry["bytes"]
    if not isinstance(name, str) or type(size) is not int or size < 0:
        raise TypeError
    return ObjectInfo(
        key=name,
        size_bytes=size,
        sha256=None,
        modified_at=datetime.fromisoformat(entry["last_modified"]).replace(tzinfo=UTC),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _read_size(text: str) -> int:
    if _SIZE.fullmatch(text) is None:
        raise ValueError
    return int(text)
