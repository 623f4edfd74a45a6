"""What nginx remembers: that a token may read a photo, for some seconds, and nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from app.db.base import utc_now
from app.errors import ConfigurationError
from app.server.edge import render_nginx
from tests.edge.conftest import NewEdge
from tests.edge.deliveries import REMEMBERING, UNLIMITED, Delivery, folder_delivery
from tests.edge.origins import Origin
from tests.servers.client import Client, new_photo
from tests.servers.edge import settings_of, wait_for

ORIGINAL = "/api/v1/photos/0190a0a0-0000-7000-8000-000000000000/original"
BEARER = {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"}
NAMED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Accel-Redirect: /.bytes/local/photo\r\n\r\n"
READABLE = {"STORAGE__LOCAL_GROUP_READABLE": "true", **REMEMBERING}


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx that remembers, in front of the product and its folder; it takes one request of a client at a time."""
    settings = {**REMEMBERING, "EDGE__UNLIMITED_NETWORKS": "127.9.9.9", "EDGE__MAX_CONNECTIONS": "1"}
    with ExitStack() as closing:
        yield folder_delivery(tmp_path_factory.mktemp("remembered"), closing, **settings)


@pytest.fixture
def path(delivery: Delivery) -> str:
    """Where a new photo is answered."""
    return f"/api/v1/photos/{delivery.client.upload(new_photo(200_000))['id']}/original"


def asks(delivery: Delivery, client: Client, path: str, **headers: str) -> float:
    """Ask twice; return how often the server was asked."""
    before = delivery.named()
    for _ in range(2):
        client.get(path, headers=headers)
    return delivery.named() - before


def test_the_server_is_asked_once_for_the_same_photo_and_token(delivery: Delivery, path: str) -> None:
    before = delivery.named()

    answers = [delivery.through.get(path, headers={"X-Request-Id": f"view-{number}"}) for number in range(3)]

    assert delivery.named() == before + 1
    assert [answer.status_code for answer in answers] == [200] * 3  # one at a time: the step before is not counted
    assert len({answer.content for answer in answers}) == 1
    assert len(answers[0].content) == 200_000
    assert [answer.headers["X-Request-Id"] for answer in answers] == ["view-0", "view-1", "view-2"]


@pytest.mark.parametrize(
    "headers",
    [{"Range": "bytes=0-9"}, {"If-None-Match": '"0000"'}, {"If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}],
    ids=["range", "tag", "date"],
)
def test_ranges_and_conditions_are_asked_each_time(delivery: Delivery, path: str, headers: dict[str, str]) -> None:
    assert asks(delivery, delivery.through, path, **headers) == 2


def test_who_may_not_read_a_photo_is_not_helped_by_who_may(delivery: Delivery, path: str) -> None:
    assert delivery.through.get(path).status_code == 200
    stranger = {"Authorization": f"Bearer {delivery.product.new_user().tokens['access_token']}"}
    token = delivery.through.tokens["access_token"]
    altered = {"Authorization": f"Bearer {token[:-2]}{'AA' if token[-2:] != 'AA' else 'BB'}"}

    # All by one connection: by another one it could come while nginx still counts the request before.
    assert delivery.through.get(path, headers=stranger).status_code == 404
    assert delivery.through.get(path, headers=stranger).status_code == 404
    assert delivery.through.get(path, headers=altered).status_code == 401
    assert delivery.through.get(path, headers={"Authorization": ""}).status_code == 401
    assert delivery.through.get(path).status_code == 200


def test_an_api_key_is_never_kept(delivery: Delivery, path: str) -> None:
    ends = (utc_now() + dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    wanted = {"name": "views", "scopes": ["photos:read"], "expires_at": ends}
    key = str(delivery.client.post("/api/v1/api-keys", json=wanted).json()["key"])

    assert asks(delivery, delivery.through, path, Authorization=f"Bearer {key}") == 2
    assert asks(delivery, delivery.through, path, Authorization="", **{"X-Api-Key": key}) == 2
    kept = b"".join(file.read_bytes() for file in (delivery.edge.folder / "decisions").rglob("*") if file.is_file())
    assert key.encode() not in kept


def test_a_removed_photo_is_gone_when_the_decision_has_ended(delivery: Delivery, path: str) -> None:
    assert delivery.through.get(path).status_code == 200
    assert delivery.client.delete(path.removesuffix("/original"), params={"permanent": "true"}).status_code == 204

    wait_for(lambda: delivery.through.get(path).status_code == 404)

    assert delivery.through.get(path).status_code == 404


def test_an_error_is_not_kept_and_is_the_servers_own(delivery: Delivery) -> None:
    assert asks(delivery, delivery.through, ORIGINAL) == 2
    answer = delivery.through.get(ORIGINAL)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_a_decision_is_one_token_s_even_if_the_server_forgot_to_say_that_answers_vary(new_edge: NewEdge) -> None:
    with Origin(answer=NAMED) as origin:
        edge = new_edge(origin.address, **READABLE, **UNLIMITED)
        file = edge.settings.storage.local_root / "objects" / "photo"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"the bytes of a photo")
        another = {"Authorization": BEARER["Authorization"][:-1] + "A"}

        answers = [requests.get(edge.url + ORIGINAL, headers=who, timeout=20) for who in (BEARER, BEARER, another)]

        assert {answer.content for answer in answers} == {b"the bytes of a photo"}
        assert [each.headers("Authorization") for each in origin.requests] == [
            [*BEARER.values()],
            [*another.values()],
        ]


def test_bytes_that_the_server_sends_itself_are_not_kept(new_edge: NewEdge) -> None:
    with Origin() as origin:
        edge = new_edge(origin.address, **READABLE, **UNLIMITED)

        answers = [requests.get(edge.url + ORIGINAL, headers=BEARER, timeout=20) for _ in range(2)]

        assert [answer.content for answer in answers] == [b"ok", b"ok"]
        assert len(origin.requests) == 2


def test_a_request_is_limited_on_its_way_in(new_edge: NewEdge) -> None:
    with Origin() as origin, requests.Session() as session:
        edge = new_edge(origin.address, **READABLE, EDGE__PROFILE="strict")

        statuses = [session.get(edge.url + ORIGINAL, headers=BEARER, timeout=20).status_code for _ in range(100)]

        assert set(statuses) == {200, 429}
        assert len(origin.requests) == statuses.count(200)


@pytest.mark.parametrize("path", ["/", "/api/v1/photos", "/api/v1/users", "/metrics", f"{ORIGINAL}/x"])
def test_the_step_before_the_server_leads_to_originals_alone(new_edge: NewEdge, path: str) -> None:
    with Origin() as origin:
        bind = new_edge(origin.address, **READABLE, **UNLIMITED).settings.edge.decision_bind

        refused = requests.get(f"http://{bind}{path}", headers=BEARER, timeout=20)
        answered = requests.get(f"http://{bind}{ORIGINAL}", headers=BEARER, timeout=20)

        assert (refused.status_code, refused.headers["Content-Type"]) == (404, "application/problem+json")
        assert answered.content == b"ok"
        assert len(origin.requests) == 1


def test_without_the_server_the_step_before_it_says_so_as_nginx_does(tmp_path: Path) -> None:
    with ExitStack() as closing:
        delivery = folder_delivery(tmp_path, closing, **REMEMBERING)
        path = f"/api/v1/photos/{delivery.client.upload()['id']}/original"
        delivery.product.close()

        answer = delivery.through.get(path)

    assert (answer.status_code, answer.headers["Content-Type"]) == (502, "application/problem+json")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("bind", "says"),
    [("0.0.0.0:8089", "an address of this host alone"), ("127.0.0.1:8000", "must be two different addresses")],
    ids=["open", "taken"],
)
def test_the_step_before_the_server_has_an_address_of_its_own_on_this_host(
    tmp_path: Path, bind: str, says: str
) -> None:
    settings = settings_of(tmp_path, "127.0.0.1:8000", 8080, {**READABLE, "EDGE__DECISION_BIND": bind})

    with pytest.raises(ConfigurationError, match=says):
        render_nginx(settings, folder=tmp_path)


def test_where_nginx_can_send_nothing_there_is_nothing_to_remember(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "127.0.0.1:8000", 8080, REMEMBERING)

    with pytest.raises(ConfigurationError, match="LOCAL_GROUP_READABLE=true"):
        render_nginx(settings, folder=tmp_path)
