"""Photos that nginx sends itself: what a client gets is what the server alone would have answered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text

from app.storage.local import LocalObjectStore
from tests.edge.deliveries import (
    REMEMBERING,
    UNLIMITED,
    Delivery,
    bucket_delivery,
    container_delivery,
    folder_delivery,
)
from tests.edge.test_answers import answer_to
from tests.servers.client import new_photo
from tests.servers.edge import Edge
from tests.servers.product import Product, until
from tests.servers.stacks import embedded_stack

SIZE = 200_000
# nginx's own on every answer, a new one each time, or how the connection goes on.
NOT_COMPARED = {"date", "server", "connection", "keep-alive", "ratelimit-policy", "x-request-id"}


BUCKET = {
    "STORAGE__BACKEND": "s3",
    "STORAGE__S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "STORAGE__S3_BUCKET": "photos",
    "STORAGE__S3_ACCESS_KEY_ID": "photos",
    "STORAGE__S3_SECRET_ACCESS_KEY": "secret",
    "EDGE__CACHE_MEGABYTES": "0",
}


@dataclass(frozen=True)
class Photo:
    """A photo and where it is answered."""

    content: bytes
    path: str
    etag: str
    modified: str


@pytest.fixture(scope="module", params=["local", "s3", "swift", "local-remembered", "s3-remembered"])
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx in front of the product in front of one kind of store, asking each time or remembering the answer."""
    store, _, remembers = request.param.partition("-")
    settings = REMEMBERING if remembers else {}
    with ExitStack() as closing:
        if store == "local":
            yield folder_delivery(tmp_path_factory.mktemp("local"), closing, **settings)
        else:
            start = bucket_delivery if store == "s3" else container_delivery
            yield start(tmp_path_factory.mktemp(store), closing, request.getfixturevalue("s3_server"), **settings)


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
    members: dict[str, Any] = answer.json() if answer.request.method != "HEAD" else {}
    members.pop("request_id", None)
    return members


def test_the_server_does_not_touch_the_bytes(delivery: Delivery, photo: Photo) -> None:
    before = delivery.opened()

    answer = delivery.through.get(photo.path, headers={"X-Request-Id": "named"})
    delivery.client.get(photo.path)

    assert answer.content == photo.content
    assert answer.headers["X-Request-Id"] == "named"
    assert delivery.opened() == before + 1  # for the one who asked past nginx
    until(lambda: delivery.logged("named"), "the server's line")
    assert [line["status"] for line in delivery.logged("named") if "status" in line] == [200]


@pytest.mark.parametrize(
    "path",
    [
        "/.bytes/",
        "/.bytes/local/",
        "/.bytes/local/$FOLDER",
        "/.bytes/storage/$KEY",
        "/.bytes/storage/$KEY?X-Amz-Signature=00",
        "//.bytes/storage/$KEY",
        "/x/../.bytes/storage/$KEY",
        "/%2ebytes/local/$FOLDER",
        "/.bytes%2flocal%2f$FOLDER",
    ],
    ids=range(9),
)
def test_what_nginx_alone_may_name_is_not_there_for_clients(delivery: Delivery, photo: Photo, path: str) -> None:
    with delivery.product.stack.database() as connection:
        key = connection.execute(text("SELECT object_key FROM photos ORDER BY created_at DESC LIMIT 1")).scalar_one()
    folder = LocalObjectStore(delivery.product.folder / "unused").folder_of(key) + "/" + photo.etag.strip('"')
    target = path.replace("$KEY", key).replace("$FOLDER", folder)
    headers = "".join(
        f"{name}: {value}\r\n"
        for name, value in {
            "Host": "localhost",
            "X-Accel-Redirect": "/.bytes/local/",
            "X-Photo-Upstream": "x=1",
            "X-Sendfile-Type": "X-Accel-Redirect",
        }.items()
    )

    status, answered, body = answer_to(delivery.edge, f"GET {target} HTTP/1.1\r\n{headers}\r\n")

    assert status == 404
    assert answered["content-type"] == "application/problem+json"
    assert "not-found" in body


def test_what_clients_say_of_sending_files_is_not_passed_on(delivery: Delivery, photo: Photo) -> None:
    forged = {"X-Sendfile-Type": "X-Sendfile", "X-Accel-Redirect": "/health", "X-Accel-Mapping": "/=/"}

    answer = delivery.through.get(photo.path, headers=forged)

    assert answer.content == photo.content
    assert [name for name in answer.headers if "accel" in name.lower() or name.lower().startswith("x-photo")] == []


@pytest.mark.parametrize("delivery", ["local"], indirect=True)
@pytest.mark.parametrize("size_bytes", [0, 1000])
def test_a_file_that_was_cut_off_is_not_sent_as_a_photo(delivery: Delivery, photo: Photo, size_bytes: int) -> None:
    assert delivery.product.stack.objects_folder is not None
    (file,) = delivery.product.stack.objects_folder.rglob(photo.etag.strip('"'))
    os.truncate(file, size_bytes)

    answers = [delivery.through.get(photo.path, headers=headers) for headers in ({}, {"Range": "bytes=0-9999"})]

    assert [answer.status_code for answer in answers] == [502, 502]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_a_server_without_nginx_sends_the_bytes_to_whoever_claims_to_be_one(tmp_path: Path) -> None:
    nobody = {"PHOTO_API_SERVER__TRUSTED_PROXIES": "192.0.2.1"}
    with closing(Product(embedded_stack(tmp_path), tmp_path, workers=1, settings=nobody)) as product:
        client, content = product.new_user(), new_photo(SIZE)
        path = f"/api/v1/photos/{client.upload(content)['id']}/original"

        answer = client.get(path, headers={"X-Sendfile-Type": "X-Accel-Redirect"})

    assert answer.content == content
    assert "X-Accel-Redirect" not in answer.headers


@pytest.mark.parametrize("trouble", ["nginx may not read it", "nginx looks elsewhere", "nginx knows another store"])
def test_what_nginx_cannot_read_the_server_sends(
    delivery: Delivery, photo: Photo, tmp_path: Path, trouble: str
) -> None:
    settings = {**UNLIMITED, "STORAGE__LOCAL_GROUP_READABLE": "true", "STORAGE__LOCAL_ROOT": str(tmp_path / "other")}
    if trouble == "nginx may not read it":
        (tmp_path / "other" / "objects").mkdir(parents=True)
        (tmp_path / "other" / "objects").chmod(0)
        if os.getuid() == 0:  # whom no mode stops
            settings["EDGE__USER"] = "www-data"  # Debian has it always
    elif trouble == "nginx knows another store":
        settings |= BUCKET
    tmp_path.chmod(0o755)
    edge = Edge(tmp_path, delivery.product.url.removeprefix("http://"), settings)
    try:
        headers = {**delivery.through.http.headers, "Range": "bytes=10-19"}
        answers = [requests.get(edge.url + photo.path, headers=headers, timeout=20) for _ in range(2)]
    finally:
        edge.stop()

    assert [answer.content for answer in answers] == [photo.content[10:20]] * 2
    direct = delivery.client.get(photo.path, headers={"Range": "bytes=10-19"})
    assert [compared(answer) for answer in answers] == [compared(direct)] * 2
