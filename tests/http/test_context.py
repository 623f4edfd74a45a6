"""What every request carries: its id, its deadline, its record, its headers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.http.context import choose_request_id, restart_deadline
from app.http.identity import PUBLIC
from app.http.operations import Reply, get
from app.ops.requests import WAITED_KEY
from app.stability import current_deadline, remaining_seconds
from tests.http.edge import RememberingObserver, build_app

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class DeadlineRoutes:
    """Looks at the deadline while a request runs."""

    def __init__(self) -> None:
        self.remaining: list[float | None] = []
        self.restarted = False

    @get("/look/<uuid:any_id>", summary="s", access=PUBLIC, answers={200: None})
    def look(self, any_id: Any) -> Reply:
        """Look."""
        self.remaining.append(remaining_seconds(1000.0))
        before = current_deadline()
        restart_deadline()
        self.restarted = current_deadline() is not before
        return Reply(200, b"{}", {"X-Id": str(any_id), "Content-Security-Policy": "sandbox"})

    @get("/break", summary="s", access=PUBLIC, answers={200: None})
    def broken(self) -> Reply:
        """Break."""
        raise KeyError


ID = "019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"


def ask(path: str, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
    return build_app(DeadlineRoutes(), **options).test_client().get(path, headers=headers or {})


@pytest.mark.parametrize("given", ["a", "r-1", "A.b_c:d-9", "x" * 128])
def test_a_request_id_that_is_fit_is_kept(given: str) -> None:
    assert choose_request_id(given) == given
    assert ask(f"/look/{ID}", {"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "é", "a;b", "<script>", "a\n", "\u0663"])
def test_another_one_is_replaced(given: str) -> None:
    chosen = choose_request_id(given)

    assert re.fullmatch(r"[0-9a-f]{32}", chosen)
    assert chosen != choose_request_id(given)


@pytest.mark.parametrize("path", [f"/look/{ID}", "/break", "/nowhere"])
def test_every_answer_has_its_id_and_the_security_headers(path: str) -> None:
    answer = ask(path)

    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert set(SECURITY_HEADERS) <= set(answer.headers.keys())


def test_a_route_may_choose_a_policy_of_its_own() -> None:
    assert ask(f"/look/{ID}").headers["Content-Security-Policy"] == "sandbox"
    assert ask("/nowhere").headers["Content-Security-Policy"] == SECURITY_HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "method", "route", "status"),
    [
        (f"/look/{ID}", "GET", "/look/<uuid:any_id>", 200),
        (f"/look/{ID}", "HEAD", "/look/<uuid:any_id>", 200),
        (f"/look/{ID}", "DELETE", "(none)", 405),
        ("/break", "GET", "/break", 500),
        (f"/secret/{ID}", "GET", "(none)", 404),
    ],
)
def test_a_request_is_recorded_once_by_its_template(path: str, method: str, route: str, status: int) -> None:
    observer = RememberingObserver()

    answer = build_app(DeadlineRoutes(), observer=observer).test_client().open(path, method=method)

    assert observer.started == [answer.headers["X-Request-Id"]]
    assert observer.routes == [route]
    ((seen_method, seen_route, seen_status, seconds),) = observer.ended
    assert (seen_method, seen_route, seen_status) == (method, route, status)
    assert 0 <= seconds < 30


def test_a_deadline_holds_while_the_request_runs_and_no_longer() -> None:
    routes = DeadlineRoutes()

    build_app(routes, deadline_seconds=700.0).test_client().get(f"/look/{ID}")

    (remaining,) = routes.remaining
    assert remaining is not None
    assert 600.0 < remaining <= 700.0
    assert routes.restarted
    assert current_deadline() is None


def test_what_a_request_has_waited_for_its_turn_is_taken_off_its_time() -> None:
    routes = DeadlineRoutes()
    client = build_app(routes, deadline_seconds=700.0).test_client()

    in_time = client.get(f"/look/{ID}", environ_overrides={WAITED_KEY: 250.0})
    too_late = client.get(f"/look/{ID}", environ_overrides={WAITED_KEY: 700.0})

    (remaining,) = routes.remaining
    assert remaining is not None
    assert 350.0 < remaining <= 450.0
    assert (in_time.status_code, too_late.status_code) == (200, 504)


def test_no_deadline_is_left_behind_by_a_request_that_broke() -> None:
    ask("/break", deadline_seconds=7.0)

    assert current_deadline() is None


@pytest.mark.parametrize(
    "host",
    [
        "photos.example.org",
        "PHOTOS.example.org",
        "photos.example.org.",
        "photos.example.org:1",
        "Photos.Example.org.:8000",
        "a.example.net",
        "upper.example.com",
    ],
)
def test_hosts_on_the_list_are_served(host: str) -> None:
    hosts = ["photos.example.org", ".example.net", "Upper.example.com."]

    assert ask(f"/look/{ID}", {"Host": host}, allowed_hosts=hosts).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "photos.example.org..",
        "photos.example.org.evil.example",
        "xphotos.example.org",
        "127.0.0.1",
        "a b",
        "evil@x",
        "[::1",
    ],
)
def test_hosts_outside_it_are_refused_with_id_and_record(host: str) -> None:
    observer = RememberingObserver()

    answer = ask(f"/look/{ID}", {"Host": host}, allowed_hosts=["photos.example.org"], observer=observer)

    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["type"] == "urn:photo-api:problem:host-not-allowed"
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert "evil" not in answer.text
    assert [status for *_, status, _ in observer.ended] == [400]


def test_without_a_list_every_host_is_served() -> None:
    assert ask(f"/look/{ID}", {"Host": "anything.example"}).status_code == 200
