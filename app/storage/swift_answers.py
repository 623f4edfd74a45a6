"""What a Swift server says, read into this product's terms: facts, pages of a listing, errors.

Not here: sending (``connections.py``), what is asked (``swift.py``) and tokens (``swift_auth.py``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.message import Message
from http import HTTPStatus
from http.client import HTTPResponse
from typing import Any, Final

import orjson

from app.storage.answers import ERROR_BYTES, KIND_BY_STATUS, error_of, not_understood, read_facts, read_sha256
from app.storage.base import (
    DenialReason,
    ObjectCorruptError,
    ObjectInfo,
    StorageDeniedError,
    StorageError,
    StorageUnavailableError,
)

LARGEST_BYTES: Final = 5 * 1024**3
"""What Swift takes as one object; more would have to go up in segments."""

_PAGE_BYTES = 16 * 1024 * 1024
_MD5 = re.compile(r'(?:W/)?(?:"([0-9A-Fa-f]{32})"|([0-9A-Fa-f]{32}))')
_TRANSACTION = re.compile(r"[A-Za-z0-9._-]{1,100}")

_CLIENT_DISCONNECTED = 499
_KIND_BY_STATUS: dict[int, type[StorageError]] = {
    **KIND_BY_STATUS,
    HTTPStatus.UNPROCESSABLE_ENTITY: ObjectCorruptError,
    _CLIENT_DISCONNECTED: StorageUnavailableError,
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
    response.read(ERROR_BYTES)
    transaction = response.headers.get("X-Trans-Id", "")
    return SwiftAnswerError(response.status, transaction if _TRANSACTION.fullmatch(transaction) else "unknown")


def storage_error(answer: SwiftAnswerError, retry_after: str | None = None) -> StorageError:
    """Return the storage error that an answer means.

    Args:
        answer: What the server said.
        retry_after: Its ``Retry-After`` header, in seconds or as a date.
    """
    return error_of(_KIND_BY_STATUS.get(answer.status, StorageDeniedError), retry_after)


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
    sha256 = read_sha256(response.headers.get("X-Object-Meta-Sha256"))
    if sha256 is None and _is_segmented(response.headers):
        raise ObjectCorruptError("The stored object is in segments and has no digest: this server did not store it.")
    return read_facts(key, response, sha256=sha256)


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
