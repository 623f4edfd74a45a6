"""Every limit of the edge against a live nginx: as many requests pass as nginx's model of a leaky bucket says."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from app.server.edge import JSON_BYTES_MAX
from app.server.edge_limits import PROFILES, Zone
from tests.edge.conftest import NewEdge
from tests.servers.edge import Edge, wait_for
from tests.servers.nginx import Nginx

TOO_MANY = 429
PHOTO = "/api/v1/photos/019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"
# A request of each class that the server answers without work: nobody is logged in.
ASKED: Final = {
    "api": ("GET", "/api/v1/users/me"),
    "image": ("GET", f"{PHOTO}/original"),
    "upload": ("POST", "/api/v1/photos"),
    "auth": ("POST", "/api/v1/auth/tokens"),
}
BALANCER = {"BALANCER__NETWORKS": "127.0.0.0/8"}
_SLOWER_THAN_THE_LEAK = 0.6


class Bucket:
    """nginx's leaky bucket (``ngx_http_limit_req_lookup``), in thousandths of a request and whole milliseconds.

    Args:
        zone: Its rate, burst and delay.
    """

    def __init__(self, zone: Zone) -> None:
        self._rate = zone.rate * 1000 // zone.window_seconds
        self._burst = zone.burst * 1000
        self._undelayed = zone.undelayed * 1000
        self._excess: int | None = None
        self._last = 0

    def delay_ms(self, at_ms: int) -> int | None:
        """Let one request in and return how long it has to wait, or refuse it; a refused one adds nothing."""
        if self._excess is None:
            self._excess, self._last = 0, at_ms
            return 0
        excess = max(0, self._excess - self._rate * (at_ms - self._last) // 1000 + 1000)
        if excess > self._burst:
            return None
        self._excess, self._last = excess, at_ms
        return max(0, excess - self._undelayed) * 1000 // self._rate


def arrivals_ms(lines: list[dict[str, Any]]) -> list[int]:
    """Return when requests came by nginx's own clock, which is the one that its buckets leak by."""
    return sorted(round((line["epoch_seconds"] - line["duration_seconds"]) * 1000) for line in lines)


def asked(edge: Edge, zone: str, count: int, **options: object) -> Iterator[requests.Response]:
    """Ask one after the other on one connection."""
    method, path = ASKED[zone]
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(count):
            yield session.request(method, edge.url + path, timeout=20, **options)  # type: ignore[arg-type]  # any option of requests


def statuses(edge: Edge, zone: str, count: int, **options: object) -> list[int]:
    return [answer.status_code for answer in asked(edge, zone, count, **options)]


def zone_id(case: tuple[str, Zone]) -> str:
    return f"{case[0]}-{case[1].name}"


UNDELAYED = [(name, zone) for name, zones in PROFILES.items() for zone in zones if zone.undelayed == zone.burst]


@pytest.mark.parametrize("case", UNDELAYED, ids=zone_id)
def test_as_many_pass_as_the_model_says_plus_or_minus_one(
    new_edge: NewEdge, nginx: Callable[[str], Nginx], case: tuple[str, Zone]
) -> None:
    profile, zone = case
    # Much faster than any bucket leaks, however busy the machine is.
    server = nginx("server { listen 127.0.0.1:$PORT; location / { return 401; } }")
    edge = new_edge(server.url.removeprefix("http://"), EDGE__PROFILE=profile)
    bucket, count = Bucket(zone), zone.burst * 3 + 20
    method, path = ASKED[zone.name]

    with closing(edge.connect()) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode() * count)
        received = bytearray()
        while received.count(b"HTTP/1.1 ") < count and (piece := client.recv(65_536)):
            received += piece
    lines = edge.log_lines(count)

    passed = sum(line["status"] != TOO_MANY for line in lines)
    modelled = sum(bucket.delay_ms(at) is not None for at in arrivals_ms(lines))
    assert {line["status"] for line in lines} == {401, TOO_MANY}
    assert abs(passed - modelled) <= 1


def test_the_model_leaks_at_the_rate_holds_the_burst_and_delays_its_end() -> None:
    bucket = Bucket(Zone("api", 20, "s", burst=3, undelayed=2))

    at_once = [bucket.delay_ms(0) for _ in range(6)]
    soon, in_time = bucket.delay_ms(49), bucket.delay_ms(50)

    assert at_once == [0, 0, 0, 50, None, None]
    assert (soon, in_time) == (None, 50)


@pytest.mark.parametrize("name", ["api", "upload"])
def test_what_comes_at_once_is_passed_on_then_delayed_then_refused_as_the_model_says(
    new_edge: NewEdge, name: str
) -> None:
    (zone,) = [zone for zone in PROFILES["gallery"] if zone.name == name]
    edge = new_edge(EDGE__MAX_CONNECTIONS="200", EDGE__MAX_UPLOADS="200")
    bucket = Bucket(zone)
    method, path = ASKED[name]
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
    with ExitStack() as closings:
        # Twice as many as fit: one of two halves overflows even when everything stood still between them.
        clients = [closings.enter_context(closing(edge.connect())) for _ in range(2 * (1 + zone.burst + 12))]

        for client in clients:
            client.sendall(request)
        lines = edge.log_lines(len(clients))

    modelled = [bucket.delay_ms(at) for at in arrivals_ms(lines)]
    delays = [delay for delay in modelled if delay is not None]
    passed = [line for line in lines if line["limit_req"] != "REJECTED"]
    delayed = [line for line in lines if line["limit_req"] == "DELAYED"]
    assert abs(len(passed) - len(delays)) <= 1
    assert abs(len(delayed) - sum(delay > 0 for delay in delays)) <= 1
    assert len(passed) < len(clients)
    assert max(line["duration_seconds"] for line in delayed) >= 0.8 * max(delays) / 1000
    assert {line["status"] for line in lines if line not in passed} == {TOO_MANY}


def test_classes_have_buckets_of_their_own(new_edge: NewEdge) -> None:
    edge = new_edge()
    full = statuses(edge, "auth", 8)

    others = [statuses(edge, zone, 3) for zone in ("api", "image", "upload")]

    assert full[-1] == TOO_MANY
    assert all(TOO_MANY not in each for each in others)


@pytest.mark.parametrize(
    ("method", "path", "zone"),
    [
        ("GET", "/api/v1/photos", "api"),
        ("POST", "/api/v1/photos", "upload"),
        ("POST", "/api/v1//photos", "upload"),
        ("POST", "/api/v1/%70hotos?x=1", "upload"),
        ("POST", "/api/v1/photos/check", "api"),
        ("GET", f"{PHOTO}/original?v=1", "image"),
        ("HEAD", f"{PHOTO}/renditions/thumbnail", "image"),
        ("POST", "/api/v1/auth/tokens", "auth"),
        ("POST", "/api/v1/auth/../auth/tokens", "auth"),
        ("DELETE", "/api/v1/auth/tokens", "api"),
        ("POST", "/api/v1/auth/tokens/refresh", "api"),
        ("POST", "/api/v1/users", "auth"),
        ("GET", "/nowhere", "api"),
        ("POST", "/health", "api"),
    ],
)
def test_a_request_has_the_policy_of_its_class(edge: Edge, method: str, path: str, zone: str) -> None:
    with closing(edge.connect()) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        head = client.recv(4096).decode()

    assert f'RateLimit-Policy: "{zone}";q=' in head


def test_a_request_that_is_refused_before_any_limit_has_the_policy_of_its_class(edge: Edge) -> None:
    refused = requests.post(f"{edge.url}{ASKED['auth'][1]}", data=bytes(JSON_BYTES_MAX + 1), timeout=20)

    assert refused.status_code == 413
    assert refused.headers["RateLimit-Policy"].startswith('"auth"')
    assert edge.logged(refused.headers["X-Request-Id"])["zone"] == "auth"


@pytest.mark.parametrize(("profile", "policy"), [("gallery", '"auth";q=5;w=60'), ("strict", '"auth";q=5;w=60')])
def test_a_refused_request_is_told_when_to_come_back(new_edge: NewEdge, profile: str, policy: str) -> None:
    edge = new_edge(EDGE__PROFILE=profile)

    refused = list(asked(edge, "auth", 7))[-1]

    assert refused.status_code == TOO_MANY
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "12"
    assert refused.headers["RateLimit"] == '"auth";r=0;t=12'
    assert refused.headers["RateLimit-Policy"].startswith(policy)
    document = refused.json()
    assert document["type"] == "urn:photo-api:problem:too-many-requests"
    assert (document["status"], document["retryable"], document["retry_after_seconds"]) == (TOO_MANY, True, 12)
    assert document["request_id"] == refused.headers["X-Request-Id"]


def test_what_passes_is_told_the_policy_and_no_remainder(edge: Edge) -> None:
    answer = next(asked(edge, "image", 1))

    assert answer.headers["RateLimit-Policy"].startswith('"image";q=100;w=1, "connections";q=20')
    assert "RateLimit" not in answer.headers
    assert "Retry-After" not in answer.headers


def test_the_servers_own_429_keeps_its_own_retry_after(new_edge: NewEdge) -> None:
    edge = new_edge(EDGE__UNLIMITED_NETWORKS="127.0.0.0/8")
    wrong = {"email": "nobody@example.org", "password": "a wrong password"}

    answers = [requests.post(edge.url + "/api/v1/auth/tokens", json=wrong, timeout=20) for _ in range(12)]

    refused = [answer for answer in answers if answer.status_code == TOO_MANY]
    assert refused
    assert "RateLimit" not in refused[-1].headers
    assert refused[-1].headers["Retry-After"] == str(refused[-1].json()["retry_after_seconds"])


@pytest.mark.parametrize("path", ["/health", "/health/liveness", "/health/readiness", "/__lbheartbeat__"])
def test_probes_are_never_limited(new_edge: NewEdge, path: str) -> None:
    edge = new_edge(EDGE__PROFILE="strict")
    full = statuses(edge, "api", 40)

    with requests.Session() as session:
        probes = [session.get(edge.url + path, timeout=20) for _ in range(60)]

    assert TOO_MANY in full
    assert {probe.status_code for probe in probes} == {200}
    assert "RateLimit-Policy" not in probes[0].headers


def test_a_dry_run_refuses_nothing_and_logs_what_it_would_refuse(new_edge: NewEdge) -> None:
    edge = new_edge(EDGE__DRY_RUN="true")

    answered = statuses(edge, "auth", 8)

    assert TOO_MANY not in answered
    assert [line["limit_req"] for line in edge.log_lines(8)][-2:] == ["REJECTED_DRY_RUN"] * 2


def test_addresses_on_the_allow_list_have_no_limit_and_others_have(new_edge: NewEdge) -> None:
    edge = new_edge(EDGE__UNLIMITED_NETWORKS="10.1.0.0/16", **BALANCER)

    allowed = statuses(edge, "auth", 12, headers={"X-Forwarded-For": "10.1.2.3"})
    other = statuses(edge, "auth", 12, headers={"X-Forwarded-For": "10.2.2.3"})

    assert TOO_MANY not in allowed
    assert other[-1] == TOO_MANY


def test_a_forged_address_has_the_bucket_of_who_forges_it(new_edge: NewEdge) -> None:
    edge = new_edge()

    answered = [
        status
        for number in range(12)
        for status in statuses(
            edge, "auth", 1, headers={"X-Forwarded-For": f"10.0.0.{number}", "X-Real-IP": "10.9.9.9"}
        )
    ]

    assert answered.count(TOO_MANY) == 12 - 5
    assert {line["client_ip"] for line in edge.log_lines(12)} == {"127.0.0.1"}


def test_behind_the_balancer_each_client_has_a_bucket_and_what_it_claims_before_is_not_believed(
    new_edge: NewEdge,
) -> None:
    edge = new_edge(BALANCER__NETWORKS="127.0.0.1")

    ones = statuses(edge, "auth", 8, headers={"X-Forwarded-For": "10.0.0.1"})
    liar = [
        status
        for number in range(8)
        for status in statuses(edge, "auth", 1, headers={"X-Forwarded-For": f"10.0.0.{number}, 10.0.0.99"})
    ]

    assert ones.count(TOO_MANY) == 3
    assert liar.count(TOO_MANY) == 3
    assert {line["client_ip"] for line in edge.log_lines(16)} == {"10.0.0.1", "10.0.0.99"}


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7, 10.0.0.5", "198.51.100.7"),
        ("10.0.0.4, 10.0.0.5", "10.0.0.4"),
        ("nonsense", "127.0.0.1"),
        ("198.51.100.7, nonsense", "127.0.0.1"),
        ("2001:db8::7", "2001:db8::7"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_balancer(
    edge_of_balancers: Edge, forwarded: str, client: str
) -> None:
    answer = next(asked(edge_of_balancers, "api", 1, headers={"X-Forwarded-For": forwarded}))

    assert edge_of_balancers.logged(answer.headers["X-Request-Id"])["client_ip"] == client


@pytest.fixture(scope="module")
def edge_of_balancers(new_edge: NewEdge) -> Edge:
    """An edge behind two balancers, one behind the other."""
    return new_edge(BALANCER__NETWORKS="127.0.0.1,10.0.0.0/8")


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("2001:db8::1", "2001:db8::2:1", True),
        ("::1", "::2", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
    ],
)
def test_ipv6_addresses_share_a_bucket_when_they_share_their_network(
    new_edge: NewEdge, first: str, second: str, *, shared: bool
) -> None:
    edge = new_edge(**BALANCER)

    filled = statuses(edge, "auth", 6, headers={"X-Forwarded-For": first})
    other = statuses(edge, "auth", 1, headers={"X-Forwarded-For": second})

    assert filled[-1] == TOO_MANY
    assert (other == [TOO_MANY]) is shared


@pytest.mark.parametrize(
    ("zone", "setting", "most"), [("api", "EDGE__MAX_CONNECTIONS", 3), ("upload", "EDGE__MAX_UPLOADS", 2)]
)
def test_one_address_has_so_many_requests_under_way(new_edge: NewEdge, zone: str, setting: str, most: int) -> None:
    edge = new_edge(**{setting: str(most)})
    path = ASKED[zone][1]
    begun = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx".encode()
    with ExitStack() as closings:
        clients = [closings.enter_context(closing(edge.connect())) for _ in range(most + 3)]
        for client in clients:
            client.sendall(begun)
        wait_for(lambda: len(_answered(clients)) == 3)

        answers = [client.recv(4096).decode() for client in _answered(clients)]
        elsewhere = _refused(edge, path, source="127.0.1.9")
        probe = requests.get(f"{edge.url}/health", timeout=20)

    for answer in answers:
        assert answer.startswith("HTTP/1.1 429 ")
        assert "Retry-After: 1\r\n" in answer
        assert 'RateLimit: "connections";r=0;t=1\r\n' in answer
    assert elsewhere is None
    assert probe.status_code == 200
    wait_for(lambda: _refused(edge, path) is None, seconds_between=_SLOWER_THAN_THE_LEAK)


def test_private_paths_and_unknown_hosts_are_limited_as_well(new_edge: NewEdge) -> None:
    edge = new_edge(EDGE__PROFILE="strict")

    with requests.Session() as session:
        private = [session.get(edge.url + "/metrics", timeout=20).status_code for _ in range(30)]
        stranger = {"Host": "other.example"}
        unknown = [session.get(edge.url + "/", headers=stranger, timeout=20).status_code for _ in range(12)]

    assert set(private) == {404, TOO_MANY}
    assert TOO_MANY in unknown
    assert set(unknown) <= {421, TOO_MANY}


def test_return_answers_before_any_limit_which_is_why_no_route_uses_it(
    nginx: Callable[[str], Nginx], edge: Edge
) -> None:
    trap = nginx(
        """
        limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;
        server {
            listen 127.0.0.1:$PORT;
            limit_req zone=one;
            location = /return { return 404; }
            location / { try_files /.none =404; }
        }
        """
    )

    returned = [requests.get(f"{trap.url}/return", timeout=20).status_code for _ in range(5)]
    tried = [requests.get(f"{trap.url}/x", timeout=20).status_code for _ in range(5)]

    assert (set(returned), tried) == ({404}, [404, 503, 503, 503, 503])
    assert _lines_with_return(edge.file) == ["return 200 $photo_api_problem;"] * 2


def _lines_with_return(file: Path) -> list[str]:
    return [
        line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip().startswith("return ")
    ]


def _answered(clients: list[socket.socket]) -> list[socket.socket]:
    """Return those to which something was sent."""
    return select.select(clients, [], [], 0)[0]


def _refused(edge: Edge, path: str, source: str = "127.0.0.1") -> str | None:
    """Return the head of the answer to one request more, if it is a refusal."""
    with closing(edge.connect(source)) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        head = client.recv(4096).decode().partition("\r\n\r\n")[0] + "\r\n"
    return head if " 429 " in head.splitlines()[0] else None
