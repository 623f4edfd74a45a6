"""Photos that nginx sends itself: what a client gets is what the server alone would have answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.edge.deliveries import Delivery, bucket_delivery, folder_delivery
from tests.servers.client import new_photo

SIZE = 200_000
# nginx's own on every answer, a new one each time, or how the connection goes on.
NOT_COMPARED = {"date", "server", "connection", "keep-alive", "ratelimit-policy", "x-request-id"}


@dataclass(frozen=True)
class Photo:
    """A photo and where it is answered."""

    content: bytes
    path: str
    etag: str
    modified: str


@pytest.fixture(scope="module", params=["local", "s3"])
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx in front of the product in front of one kind of store."""
    with ExitStack() as closing:
        if request.param == "local":
            yield folder_delivery(tmp_path_factory.mktemp("local"), closing)
        else:
            yield bucket_delivery(tmp_path_factory.mktemp("s3"), closing, request.getfixturevalue("s3_server"))


@pytest.fixture
def photo(delivery: Delivery) -> Photo:
    """A photo that nginx has never seen."""
    content = new_photo(SIZE)
    uploaded = delivery.client.upload(content)
    path = f"/api/v1/photos/{uploaded['id']}/original"
    head = delivery.client.head(path)
    return Photo(content, path, head.headers["ETag"], head.headers["Last-Modified"])


def compared(answer: requests.Response) -> dict[str, str]:
    """Return the headers that must be the same by every way."""
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in NOT_COMPARED}


REQUESTS: dict[str, dict[str, str]] = {
    "whole": {},
    "first bytes": {"Range": "bytes=0-99"},
    "one byte": {"Range": "bytes=0-0"},
    "middle": {"Range": "bytes=100000-100999"},
    "from a byte on": {"Range": "bytes=199000-"},
    "last bytes": {"Range": "bytes=-500"},
    "more than there is": {"Range": "bytes=-999999"},
    "beyond the end": {"Range": "bytes=199990-999999"},
    "not there": {"Range": "bytes=200000-"},
    "no bytes": {"Range": "bytes=-0"},
    "backwards": {"Range": "bytes=9-5"},
    "several": {"Range": "bytes=0-1,5-6"},
    "with spaces": {"Range": "bytes = 0 - 9"},
    "another unit": {"Range": "lines=0-9"},
    "current tag": {"Range": "bytes=0-9", "If-Range": "$ETAG"},
    "weak tag": {"Range": "bytes=0-9", "If-Range": "W/$ETAG"},
    "stale tag": {"Range": "bytes=0-9", "If-Range": '"0000"'},
    "current date": {"Range": "bytes=0-9", "If-Range": "$DATE"},
    "stale date": {"Range": "bytes=0-9", "If-Range": "Sun, 06 Nov 1994 08:49:37 GMT"},
    "copy is current": {"If-None-Match": "$ETAG"},
    "copy is stale": {"If-None-Match": '"0000"'},
    "any copy": {"If-None-Match": "*"},
    "unchanged since": {"If-Modified-Since": "$DATE"},
    "changed since": {"If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"},
    "stale, and unchanged since": {"If-None-Match": '"0000"', "If-Modified-Since": "$DATE"},
    "must be another": {"If-Match": '"0000"'},
    "must be this one": {"If-Match": "$ETAG", "Range": "bytes=0-9"},
    "must be old": {"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"},
}


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_are_those_of_the_server(delivery: Delivery, photo: Photo, method: str, asked: str) -> None:
    headers = {
        name: value.replace("$ETAG", photo.etag).replace("$DATE", photo.modified)
        for name, value in REQUESTS[asked].items()
    }
    direct = delivery.client.request(method, photo.path, headers=headers)

    for _ in range(2):  # with a copy at nginx, too
        answer = delivery.through.request(method, photo.path, headers=headers)

        assert answer.status_code == direct.status_code
        if direct.status_code < 400:
            assert answer.content == direct.content
            assert compared(answer) == compared(direct)
        else:
            assert problem(answer) == problem(direct)


def problem(answer: requests.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    members: dict[str, Any] = answer.json()
    del members["request_id"]
    return members


def test_the_server_does_not_touch_the_bytes(delivery: Delivery, photo: Photo) -> None:
    before = delivery.opened()

    answer = delivery.through.get(photo.path, headers={"X-Request-Id": "named"})
    delivery.client.get(photo.path)

    assert answer.content == photo.content
    assert answer.headers["X-Request-Id"] == "named"
    assert delivery.opened() == before + 1  # for the one who asked past nginx
    assert [line["status"] for line in delivery.logged("named") if "status" in line] == [200]
