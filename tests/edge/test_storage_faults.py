"""nginx and the object store: what is said there, what is kept of it, and what happens when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests

from tests.edge.deliveries import Delivery, bucket_delivery, container_delivery
from tests.edge.test_bytes import compared, problem
from tests.fakes.fault_proxy import Barrier, Cut, Fault, FaultProxy, Hold, Reset, SeenRequest, Status
from tests.servers.client import new_photo
from tests.servers.product import until

SIZE = 150_000
BY_NGINX = "?"  # presigned; the server signs with headers
SIGNATURES = ("X-Amz-Signature", "temp_url_sig")
CROWD = 40
"""So many are all there long before nginx has no more patience with the store, which is eight seconds."""


@pytest.fixture(scope="module", params=["s3", "swift"])
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx in front of the product in front of a bucket."""
    with ExitStack() as closing:
        start = bucket_delivery if request.param == "s3" else container_delivery
        yield start(tmp_path_factory.mktemp(request.param), closing, request.getfixturevalue("s3_server"))


@pytest.fixture
def proxy(delivery: Delivery) -> Iterator[FaultProxy]:
    """What stands before the bucket; whole again after the test, and believed to be so."""
    assert delivery.proxy is not None
    yield delivery.proxy
    delivery.proxy.heal()
    path, _ = upload(delivery)
    until(lambda: delivery.client.get(path).status_code == 200, "the storage's breaker closes")


def upload(delivery: Delivery, size: int = SIZE) -> tuple[str, bytes]:
    """Store a photo that nginx has never seen; return its path and its bytes."""
    content = new_photo(size)
    return f"/api/v1/photos/{delivery.client.upload(content)['id']}/original", content


def fetched(proxy: FaultProxy) -> list[SeenRequest]:
    """Return what nginx has asked the store for."""
    return [seen for seen in proxy.requests if BY_NGINX in seen.path]


FAULTS: dict[str, Fault] = {
    "moved": Status(301, (("Location", "http://127.0.0.1:1/"),)),
    "found elsewhere": Status(302, (("Location", "/elsewhere"),)),
    "unauthorized": Status(401),
    "denied": Status(403, body=b"<Error>SignatureDoesNotMatch</Error>"),
    "missing": Status(404, body=b"<Error>NoSuchKey</Error>"),
    "not satisfiable": Status(416),
    "too many": Status(429, (("Retry-After", "7"),)),
    "broken": Status(500, body=b"<Error/>"),
    "bad gateway": Status(502),
    "slow down": Status(503, (("Retry-After", "7"),)),
    "reset": Reset("response"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda name: name.replace(" ", "-"))
def test_what_nginx_cannot_fetch_the_server_sends(delivery: Delivery, proxy: FaultProxy, fault: str) -> None:
    path, content = upload(delivery)
    proxy.inject(FAULTS[fault], path=BY_NGINX, times=1 if fault != "reset" else 2)
    before = len(fetched(proxy))

    first, second, third = (delivery.through.get(path) for _ in range(3))

    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 200]
    assert [answer.content for answer in (first, second, third)] == [content] * 3
    # Nothing was kept of the failure; the second time there was a whole object to keep.
    failed = 1 if fault != "reset" else len(fetched(proxy)) - before - 1
    assert len(fetched(proxy)) - before == failed + 1


@pytest.mark.parametrize(
    "fault", ["denied", "missing", "broken", "slow down"], ids=lambda name: name.replace(" ", "-")
)
def test_when_the_store_fails_for_all_the_server_says_what_is_wrong(
    delivery: Delivery, proxy: FaultProxy, fault: str
) -> None:
    path, content = upload(delivery)
    proxy.inject(FAULTS[fault], method="GET")

    direct, answer = delivery.client.get(path), delivery.through.get(path)

    assert direct.status_code in {502, 503}
    assert answer.status_code == direct.status_code
    assert problem(answer)["type"] == problem(direct)["type"]
    assert ("Retry-After" in answer.headers) is ("Retry-After" in direct.headers)
    proxy.heal()
    until(lambda: delivery.through.get(path).content == content, "the bytes")


def test_a_body_that_ends_early_is_a_broken_answer_and_is_not_kept(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    proxy.inject(Cut(100_000), path=BY_NGINX, times=1)

    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
        delivery.through.get(path)

    assert delivery.through.get(path).content == content


def test_a_body_of_another_length_is_not_kept(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    proxy.inject(Status(200, body=content[:1000]), path=BY_NGINX, times=1)

    assert delivery.through.get(path).content == content[:1000]  # nginx takes the store's word for it

    assert delivery.through.get(path).content == content


def test_a_silent_store_is_given_up(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    barrier = Barrier()
    proxy.inject(Hold("response", barrier), path=BY_NGINX, times=1)

    answer = delivery.through.get(path)

    barrier.release()
    assert (answer.status_code, answer.content) == (200, content)


def test_a_refused_connection_is_the_servers_to_answer(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    proxy.refuse()

    answer = delivery.through.get(path)

    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    proxy.heal()
    until(lambda: delivery.through.get(path).content == content, "the bytes")


def test_copies_are_sent_while_the_store_is_away(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    assert delivery.through.get(path).content == content
    proxy.refuse()

    answer = delivery.through.get(path, headers={"Range": "bytes=100-199"})

    assert (answer.status_code, answer.content) == (206, content[100:200])


def test_the_store_hears_nothing_of_the_client(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    ours = {"Cookie": "session=1", "User-Agent": "me", "Accept-Encoding": "gzip", "X-Mine": "y"}

    answer = delivery.through.get(path, headers={**ours, "Range": "bytes=0-9"})

    assert answer.content == content[:10]
    seen = fetched(proxy)[-1]
    assert {name.lower() for name in seen.headers} == {"host"}
    assert delivery.through.tokens["access_token"] not in seen.path


def test_nothing_the_store_says_besides_the_bytes_counts(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    hostile = {
        "Cache-Control": "no-store",
        "Expires": "Thu, 01 Jan 1970 00:00:00 GMT",
        "Vary": "*",
        "Set-Cookie": "stolen=1",
        "X-Accel-Redirect": "/health",
        "X-Accel-Expires": "0",
        "X-Accel-Limit-Rate": "1",
        "Content-Type": "text/html",
        "Content-Disposition": "attachment",
        "Refresh": "0;url=http://evil.example",
        "Link": "<http://evil.example>; rel=preload",
        "ETag": '"md5"',
        "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT",
        "x-amz-request-id": "1",
        "X-Trans-Id": "1",
    }
    proxy.inject(Status(200, tuple(hostile.items()), content), path=BY_NGINX, times=1)
    direct = delivery.client.get(path)
    before = len(fetched(proxy))

    answers = [delivery.through.get(path) for _ in range(2)]

    assert [answer.content for answer in answers] == [content] * 2
    assert [compared(answer) for answer in answers] == [compared(direct)] * 2
    assert len(fetched(proxy)) - before == 1


def test_a_crowd_that_asks_at_once_makes_one_request_of_the_store(delivery: Delivery, proxy: FaultProxy) -> None:
    path, content = upload(delivery)
    barrier = Barrier()
    proxy.inject(Hold("response", barrier), path=BY_NGINX, times=1)
    before, asked = len(fetched(proxy)), delivery.named()
    headers = dict(delivery.through.http.headers)

    with ThreadPoolExecutor(CROWD) as crowd:
        answers = [
            crowd.submit(requests.get, delivery.edge.url + path, headers=headers, timeout=60) for _ in range(CROWD)
        ]
        until(lambda: delivery.named() - asked >= CROWD, "all are waiting")
        barrier.release()

    assert {answer.result().content == content for answer in answers} == {True}
    assert len(fetched(proxy)) - before == 1


def test_nothing_secret_of_a_link_is_logged(delivery: Delivery, proxy: FaultProxy) -> None:
    path, _ = upload(delivery)
    link = delivery.link_to(path.split("/")[-2])
    proxy.inject(Status(500), path=BY_NGINX, times=1)

    delivery.through.get(path, headers={"X-Request-Id": "first"})
    delivery.through.get(path)
    requests.get(delivery.edge.url + link, headers={"X-Request-Id": "linked"}, timeout=20)

    line = delivery.edge.logged("linked")
    logged = (delivery.edge.folder / "access.log").read_text(encoding="utf-8") + delivery.edge.errors
    signature = link.rpartition("sig=")[2]
    assert line["path"] == "/o"
    assert [text for text in (signature, *SIGNATURES, "sig=") if text in logged] == []
    assert delivery.product.find_logged({signature, *SIGNATURES}) == set()
