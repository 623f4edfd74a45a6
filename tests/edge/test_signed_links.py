"""Signed links at nginx: what holds is sent without asking the server, everything else is the server's to judge."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from app.accounts.keyring import LINK
from app.photos.signed_links import secret_of
from app.server.edge import JSON_BYTES_MAX
from tests.edge.conftest import NewEdge
from tests.edge.deliveries import Delivery, bucket_delivery, container_delivery, folder_delivery
from tests.edge.test_answers import answer_to
from tests.edge.test_bytes import compared, problem
from tests.servers.client import new_photo

SIZE = 60_000
ENDED = 1_700_000_000


@dataclass(frozen=True)
class Linked:
    """A photo and a link to it."""

    content: bytes
    link: str
    etag: str
    modified: str


@pytest.fixture(scope="module", params=["local", "s3", "swift"])
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx in front of the product in front of one kind of store."""
    with ExitStack() as closing:
        if request.param == "local":
            yield folder_delivery(tmp_path_factory.mktemp("local"), closing)
        else:
            start = bucket_delivery if request.param == "s3" else container_delivery
            yield start(tmp_path_factory.mktemp(request.param), closing, request.getfixturevalue("s3_server"))


@pytest.fixture
def linked(delivery: Delivery) -> Linked:
    """A photo that nginx has sent once, so that it has a copy where it keeps copies."""
    content = new_photo(SIZE)
    link = delivery.link_to(delivery.client.upload(content)["id"])
    first = requests.get(delivery.edge.url + link, timeout=20)
    assert first.content == content
    return Linked(content, link, first.headers["ETag"], first.headers["Last-Modified"])


def get(delivery: Delivery, link: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, delivery.edge.url + link, headers=headers, timeout=20)


def signed(delivery: Delivery, path: str, exp: int) -> str:
    """Return a link with a right signature, whatever its path and its end are."""
    key = delivery.rings.signing(LINK)
    text = f"{secret_of(key)} {exp} {path} {secret_of(key)}"
    signature = urlsafe_b64encode(hashlib.md5(text.encode(), usedforsecurity=False).digest()).decode().rstrip("=")
    return f"{path}?exp={exp}&kid={key.kid}&sig={signature}"


def test_a_link_that_holds_is_sent_without_the_server(delivery: Delivery, linked: Linked) -> None:
    before = delivery.product.metric("photo_api_http_requests_total")

    answers = [get(delivery, linked.link) for _ in range(3)]

    assert [answer.content for answer in answers] == [linked.content] * 3
    assert delivery.product.metric("photo_api_http_requests_total") == before


ASKED: dict[str, dict[str, str]] = {
    "whole": {},
    "first bytes": {"Range": "bytes=0-99"},
    "middle": {"Range": "bytes=1000-1999"},
    "last bytes": {"Range": "bytes=-500"},
    "not there": {"Range": "bytes=60000-"},
    "backwards": {"Range": "bytes=9-5"},
    "several": {"Range": "bytes=0-1,5-6"},
    "with spaces": {"Range": "bytes = 0 - 9"},
    "current tag": {"Range": "bytes=0-9", "If-Range": "$ETAG"},
    "stale tag": {"Range": "bytes=0-9", "If-Range": '"0000"'},
    "current date": {"Range": "bytes=0-9", "If-Range": "$DATE"},
    "stale date": {"Range": "bytes=0-9", "If-Range": "Sun, 06 Nov 1994 08:49:37 GMT"},
    "copy is current": {"If-None-Match": "$ETAG"},
    "copy is stale": {"If-None-Match": '"0000"'},
    "unchanged since": {"If-Modified-Since": "$DATE"},
    "must be another": {"If-Match": '"0000"'},
}


@pytest.mark.parametrize("asked", ASKED, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_are_those_of_the_server(delivery: Delivery, linked: Linked, method: str, asked: str) -> None:
    headers = {
        name: value.replace("$ETAG", linked.etag).replace("$DATE", linked.modified)
        for name, value in ASKED[asked].items()
    }

    direct = requests.request(method, delivery.product.url + linked.link, headers=headers, timeout=20)
    answer = get(delivery, linked.link, method, **headers)

    assert answer.status_code == direct.status_code
    if answer.status_code >= 400:
        assert problem(answer) == problem(direct)
        return
    assert answer.content == direct.content
    ours, servers = compared(answer), compared(direct)
    # nginx cannot compute what is left of a link's life.
    kept = re.fullmatch(r"private, max-age=(\d+), no-transform", ours.pop("cache-control"))
    left = re.fullmatch(r"private, max-age=(\d+), no-transform", servers.pop("cache-control"))
    assert kept is not None
    assert left is not None
    assert int(kept[1]) <= int(left[1]) + 1
    assert ours == servers


def test_every_bit_of_a_link_counts(delivery: Delivery, linked: Linked) -> None:
    accepted = []

    with requests.Session() as session:
        for position, character in enumerate(linked.link):
            for bit in range(7):
                other = chr(ord(character) ^ (1 << bit))
                if other.isprintable() and other not in " #" and position > 0:
                    changed = linked.link[:position] + other + linked.link[position + 1 :]
                    status = answer_of(session, delivery, changed)
                    if status not in {400, 403, 404, 405}:
                        accepted.append((changed, status))

    assert accepted == []


def answer_of(session: requests.Session, delivery: Delivery, target: str) -> int:
    """Ask for a target as it is, without the client's idea of its right form."""
    prepared = session.prepare_request(requests.Request("GET", delivery.edge.url))
    prepared.url = delivery.edge.url + target
    return session.send(prepared, timeout=20).status_code


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link + "&x=1",
        lambda link: link.replace("?exp=", "?x=1&exp="),
        lambda link: re.sub(r"\?(exp=\d+)&(kid=[^&]+)", r"?\2&\1", link),
        lambda link: re.sub(r"(exp=\d+)", r"\1&\1", link),
        lambda link: link.replace("&", "&amp;"),
        lambda link: link.replace("&", ";"),
        lambda link: link.replace("/o/", "/o//"),
        lambda link: link.replace("/o/", "/o/./"),
        lambda link: link.replace("/o/", "/x/../o/"),
        lambda link: link.replace("/o/", "//o/"),
        lambda link: link.replace("original", "%6friginal"),
        lambda link: link.replace("original", "ORIGINAL"),
        lambda link: link.replace("/o/", "/%6f/"),
        lambda link: link.replace("exp=", "exp=0"),
        lambda link: link.replace("exp=", "exp=%30"),
        lambda link: link.replace(".jpg", ".png"),
        lambda link: link.replace(".jpg", ".jpeg"),
        lambda link: re.sub(r"sig=.*", "", link),
        lambda link: re.sub(r"sig=.*", "sig=", link),
        lambda link: link + "==",
        lambda link: link + "%00",
        lambda link: link[:-1] + chr(ord(link[-1]) + 1),
        lambda link: re.sub(r"\?.*", "", link),
    ],
    ids=range(23),
)
def test_a_link_in_another_spelling_is_refused(delivery: Delivery, linked: Linked, change: object) -> None:
    assert callable(change)
    target = change(linked.link)
    assert target != linked.link

    status, headers, _ = answer_to(delivery.edge, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert status in {403, 404}
    assert headers["content-type"] == "application/problem+json"


def test_a_link_that_has_ended_is_refused(delivery: Delivery, linked: Linked) -> None:
    path = linked.link.partition("?")[0]

    answer = get(delivery, signed(delivery, path, ENDED))

    assert (answer.status_code, problem(answer)["type"].rpartition(":")[2]) == (403, "link-not-valid")


def test_a_key_that_nobody_has_is_no_key(delivery: Delivery, linked: Linked) -> None:
    path = linked.link.partition("?")[0]
    exp = 4_000_000_000
    unsigned = urlsafe_b64encode(hashlib.md5(f" {exp} {path} ".encode(), usedforsecurity=False).digest())

    answer = get(delivery, f"{path}?exp={exp}&kid=unknown&sig={unsigned.decode().rstrip('=')}")

    assert answer.status_code == 403


def test_a_link_to_what_is_no_photo_reaches_no_file(delivery: Delivery) -> None:
    digest = "0" * 64
    for place in ("../../../etc", "..", "incoming", "objects/.."):
        link = signed(delivery, f"/o/{place}/{digest}.jpg", 4_000_000_000)

        status, _, _ = answer_to(delivery.edge, f"GET {link} HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert status in {400, 403, 404, 502}


def test_a_link_to_a_removed_photo_says_so(delivery: Delivery) -> None:
    uploaded = delivery.client.upload(new_photo(SIZE))
    link = delivery.link_to(uploaded["id"])
    delivery.client.delete(f"/api/v1/photos/{uploaded['id']}", params={"permanent": "true"})

    answers = {requests.get(url + link, timeout=20).status_code for url in (delivery.edge.url, delivery.product.url)}

    assert answers <= {200, 404}  # its bytes go a moment later


def test_links_are_limited_as_images_are(new_edge: NewEdge) -> None:
    edge = new_edge()

    answer = requests.get(f"{edge.url}/o/x", timeout=20)

    assert answer.status_code in {403, 404}
    assert answer.headers["RateLimit-Policy"].startswith('"image";')


@pytest.mark.parametrize("store", ["local", "swift"])
def test_a_link_beyond_the_limit_is_refused_with_a_problem_document(
    request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    with ExitStack() as closing:
        limited = {"EDGE__UNLIMITED_NETWORKS": "192.0.2.0/24"}
        if store == "local":
            delivery = folder_delivery(tmp_path, closing, **limited)
        else:
            delivery = container_delivery(tmp_path, closing, request.getfixturevalue("s3_server"), **limited)
        link = delivery.link_to(delivery.client.upload(new_photo(SIZE))["id"])

        with requests.Session() as session:
            answers = (session.get(delivery.edge.url + link, timeout=20) for _ in range(2000))
            refused = next(answer for answer in answers if answer.status_code != 200)

    assert refused.status_code == 429
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == str(refused.json()["retry_after_seconds"])
    assert refused.headers["RateLimit"].startswith('"image";r=0')


def test_a_link_with_a_large_body_is_refused_with_a_problem_document(delivery: Delivery, linked: Linked) -> None:
    head = f"GET {linked.link} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {JSON_BYTES_MAX + 1}\r\n\r\n"

    status, headers, _ = answer_to(delivery.edge, head)

    assert (status, headers["content-type"]) == (413, "application/problem+json")
