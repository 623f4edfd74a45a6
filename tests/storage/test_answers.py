"""What is read in the answers of S3 and Swift alike; each store's own suite sends them over a wire."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from http.client import HTTPResponse

import pytest

from app.storage.answers import KIND_BY_STATUS, error_of, read_facts, read_sha256
from app.storage.base import StorageDeniedError, StorageThrottledError, StorageUnavailableError

DATE = "Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT"


def answer(*lines: str) -> HTTPResponse:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode())
        response = HTTPResponse(ours, method="HEAD")
        response.begin()
        response.close()
    return response


@pytest.mark.parametrize(
    ("lines", "size_bytes"),
    [(("Content-Length: 7",), 7), (("Content-Length: 2", "Content-Range: bytes 3-4/7"), 7)],
    ids=["whole", "part"],
)
def test_facts_are_of_the_whole_object(lines: tuple[str, ...], size_bytes: int) -> None:
    info = read_facts("a", answer(DATE, *lines), sha256=None)

    assert (info.key, info.size_bytes, info.sha256) == ("a", size_bytes, None)
    assert info.modified_at == datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 7",),
        ("Content-Length: 7", "Last-Modified: yesterday"),
        ("Content-Length: 7", "Last-Modified: Fri, 31 Dec 9999 23:59:59 -0500"),
        (DATE,),
        (DATE, "Content-Length: seven"),
        (DATE, "Content-Length: " + "9" * 20),
    ],
    ids=["no-date", "no-moment", "after-the-calendar", "no-size", "no-number", "too-many-digits"],
)
def test_headers_that_are_not_understood_are_an_outage(lines: tuple[str, ...]) -> None:
    with pytest.raises(StorageUnavailableError, match="not understood"):
        read_facts("a", answer(*lines), sha256=None)


@pytest.mark.parametrize(
    ("text", "sha256"),
    [(None, None), ("", None), ("0" * 64, "0" * 64), ("0" * 63, None), ("A" * 64, None), ("0" * 65, None)],
    ids=["none", "empty", "digest", "short", "capitals", "long"],
)
def test_only_a_digest_is_taken_for_one(text: str | None, sha256: str | None) -> None:
    assert read_sha256(text) == sha256


@pytest.mark.parametrize(
    ("status", "retry_after", "kind", "seconds"),
    [
        (503, None, StorageUnavailableError, 2),
        (503, "17", StorageThrottledError, 17),
        (429, None, StorageThrottledError, None),
        (507, "17", KIND_BY_STATUS[507], None),
        (418, "17", StorageDeniedError, None),
    ],
)
def test_only_who_may_come_back_is_told_when(
    status: int, retry_after: str | None, kind: type[Exception], seconds: float | None
) -> None:
    error = error_of(KIND_BY_STATUS.get(status, StorageDeniedError), retry_after)

    assert type(error) is kind
    assert error.retry_after_seconds == seconds
