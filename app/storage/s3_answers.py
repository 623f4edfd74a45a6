"""What an S3 server says, read into this product's terms: facts, pages of a listing, errors.

Not here: sending (``connections.py``) and what is asked (``s3.py``).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPResponse

from app.storage.answers import ERROR_BYTES, KIND_BY_STATUS, error_of, not_understood, read_facts, read_sha256
from app.storage.base import (
    ObjectCorruptError,
    ObjectInfo,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    is_valid_key,
)

_PAGE_BYTES = 8 * 1024 * 1024
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,100})</Code>")

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
    match = _CODE.search(response.read(ERROR_BYTES))
    request_id = response.headers.get("x-amz-request-id", "unknown")
    return S3AnswerError(response.status, match[1].decode() if match else "", request_id[:100])


def storage_error(answer: S3AnswerError, retry_after: str | None = None) -> StorageError:
    """Return the storage error that an answer means.

    Args:
        answer: What the server said.
        retry_after: Its ``Retry-After`` header, in seconds or as a date.
    """
    kind = _KIND_BY_CODE.get(answer.code) or KIND_BY_STATUS.get(answer.status, StorageDeniedError)
    return error_of(kind, retry_after)


def read_info(key: str, response: HTTPResponse) -> ObjectInfo:
    """Return an object's facts from the headers of an answer to HEAD or GET.

    Raises:
        StorageUnavailableError: The headers lack what S3 promises.
    """
    return read_facts(key, response, sha256=read_sha256(response.headers.get("x-amz-meta-sha256")))


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
    except (ET.ParseError, OverflowError, TypeError, ValueError) as error:
        raise not_understood() from error
    if truncated and not continuation:
        raise not_understood()
    return Page(tuple(info for info in found if is_valid_key(info.key)), continuation if truncated else None)


def _read_entry(entry: ET.Element) -> ObjectInfo:
    return ObjectInfo(
        key=entry.findtext("{*}Key") or "",
        size_bytes=int(entry.findtext("{*}Size") or ""),
        sha256=None,
        modified_at=datetime.fromisoformat(entry.findtext("{*}LastModified") or "").astimezone(UTC),
    )
