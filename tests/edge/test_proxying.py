"""The way from nginx to the server: kept connections, what is passed on of a client, and what is never sent twice."""

from __future__ import annotations

import getpass
import secrets
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests

from tests.edge.conftest import NewEdge
from tests.edge.origins import OK, Origin
from tests.servers.base import find_free_port
from tests.servers.edge import Edge, wait_for
from tests.servers.product import Product
from tests.servers.stacks import embedded_stack

PEOPLE = "10.0.0.0/8"


def test_few_connections_to_the_server_serve_many_of_clients(new_edge: NewEdge) -> None:
    with Origin() as origin:
        edge = new_edge(origin.address, EDGE__UNLIMITED_NETWORKS="127.0.0.1")

        for _ in range(40):
            requests.get(f"{edge.url}/x", timeout=20)

    assert len(origin.requests) == 40
    # Each of nginx's workers keeps its own, and now and then a request overtakes a connection on its way to be kept.
    assert origin.connections <= 20
    assert [received.headers("Connection") for received in origin.requests] == [[]] * 40


def test_only_what_nginx_knows_is_passed_on_of_a_client(new_edge: NewEdge) -> None:
    claims = {
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "99",
        "X-Forwarded-Prefix": "/evil",
        "X-Real-IP": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "X_Forwarded_For": "10.0.0.1",
        "Connection": "upgrade",
        "Upgrade": "websocket",
        "Expect": "100-continue",
    }
    with Origin() as origin:
        edge = new_edge(origin.address)

        requests.get(f"{edge.url}/x", headers=claims, timeout=20)

    received = origin.requests[0]
    assert received.headers("X-Forwarded-For") == ["127.0.0.1"]
    assert received.headers("X-Forwarded-Proto") == ["http"]
    assert received.headers("Host") == ["127.0.0.1"]
    absent = sorted(set(claims) - {"X-Forwarded-For", "X-Forwarded-Proto"})
    assert [name for name in absent if received.headers(name)] == []


@pytest.mark.parametrize(("claimed", "passed_on"), [("https", "https"), ("http", "http"), ("gopher", "http")])
def test_the_balancer_is_believed_by_which_scheme_the_client_came(
    new_edge: NewEdge, claimed: str, passed_on: str
) -> None:
    with Origin() as origin:
        edge = new_edge(origin.address, BALANCER__NETWORKS="127.0.0.1")

        answer = requests.get(
            f"{edge.url}/x", headers={"X-Forwarded-For": "10.0.0.1", "X-Forwarded-Proto": claimed}, timeout=20
        )

    assert origin.requests[0].headers("X-Forwarded-Proto") == [passed_on]
    assert origin.requests[0].headers("X-Forwarded-For") == ["10.0.0.1"]
    assert ("Strict-Transport-Security" in answer.headers) is (passed_on == "https")


@pytest.mark.parametrize("listens", ["on a port", "on a unix socket"])
def test_the_server_counts_failed_logins_by_the_address_that_nginx_saw(
    new_edge: NewEdge, tmp_path: Path, listens: str
) -> None:
    with ExitStack() as closings:
        bind = ""
        if listens == "on a unix socket":
            bind = f"unix:{tmp_path}/s"
            nobody = {"PHOTO_API_SERVER__BIND": bind, "PHOTO_API_SERVER__TRUSTED_PROXIES": "192.0.2.1"}
            product = Product(embedded_stack(tmp_path), tmp_path, workers=1, settings=nobody)
            closings.callback(product.close)
        edge = new_edge(bind, BALANCER__NETWORKS="127.0.0.1", EDGE__UNLIMITED_NETWORKS=PEOPLE)

        of_one = [_log_in(edge, "10.9.1.1") for _ in range(12)]
        of_another = _log_in(edge, "10.9.2.1")

    # The last one may just have come when its wait was over.
    assert (of_one[0], 429 in of_one, of_another) == (401, True, 401)


def _log_in(edge: Edge, address: str) -> int:
    wrong = {"email": f"nobody-{secrets.token_hex(4)}@example.org", "password": "a wrong password"}
    headers = {"X-Forwarded-For": f"10.77.0.1, {address}"}
    return requests.post(f"{edge.url}/api/v1/auth/tokens", json=wrong, headers=headers, timeout=20).status_code


def test_a_change_is_never_sent_twice(new_edge: NewEdge) -> None:
    with Origin(closes_after=1) as origin:
        edge = new_edge(origin.address)
        requests.post(f"{edge.url}/x", data=b"first", timeout=20)

        cut = [requests.post(f"{edge.url}/x", data=b"second", timeout=20) for _ in range(9)]

    # The server took some of them on a kept connection and closed it without a word: those are told, not repeated.
    told = [answer for answer in cut if answer.status_code == 502]
    assert told
    assert "Idempotency-Key" in told[0].json()["detail"]
    assert len(origin.requests) == 10


def test_a_read_on_a_kept_connection_that_was_closed_is_asked_again(new_edge: NewEdge) -> None:
    with Origin(closes_after=1) as origin:
        edge = new_edge(origin.address)

        answers = [requests.get(f"{edge.url}/x", timeout=20).status_code for _ in range(10)]

    assert answers == [200] * 10
    assert len(origin.requests) > 10


def test_the_servers_headers_pass_through(new_edge: NewEdge) -> None:
    headers = b'ETag: "abc"\r\nRetry-After: 7\r\nRateLimit: "mine";r=0\r\nServer: python\r\nSet-Cookie: a=b\r\n'
    with Origin(answer=OK.replace(b"200 OK\r\n", b"503 No\r\n" + headers)) as origin:
        edge = new_edge(origin.address)

        answer = requests.get(f"{edge.url}/x", timeout=20)

    assert (answer.status_code, answer.text) == (503, "ok")
    assert (answer.headers["ETag"], answer.headers["Retry-After"]) == ('"abc"', "7")
    assert (answer.headers["RateLimit"], answer.headers["Set-Cookie"]) == ('"mine";r=0', "a=b")
    assert answer.headers["Server"] == "nginx"


def test_a_smuggled_request_stays_one_request(new_edge: NewEdge) -> None:
    hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunked = f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"
    with Origin() as origin:
        edge = new_edge(origin.address)

        with closing(edge.connect()) as client:
            client.sendall(
                f"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer_Encoding: x\r\n"
                f"Content_Length: 0\r\n\r\n{chunked}".encode()
            )
            answered = client.recv(4096)

    assert answered.startswith(b"HTTP/1.1 200")
    assert [received.body.decode() for received in origin.requests] == [hidden]
    assert origin.requests[0].headers("Content-Length") == [str(len(hidden))]


def test_the_server_may_listen_on_a_unix_socket(new_edge: NewEdge, tmp_path: Path) -> None:
    with Origin(path=f"{tmp_path}/s") as origin:
        edge = new_edge(origin.address)

        answer = requests.get(f"{edge.url}/x", timeout=20)

    assert (answer.status_code, origin.requests[0].headers("X-Forwarded-For")) == (200, ["127.0.0.1"])


def test_with_a_certificate_plain_http_leads_to_https_and_probes_are_answered(
    new_edge: NewEdge, certificate: dict[str, str]
) -> None:
    port = find_free_port()
    edge = new_edge(EDGE__TLS_BIND=f"127.0.0.1:{port}", **certificate)

    redirected = requests.post(
        f"{edge.url}/docs?x=1", headers={"Host": "localhost"}, allow_redirects=False, timeout=20
    )
    probe = requests.get(f"{edge.url}/health", allow_redirects=False, timeout=20)
    secure = requests.get(
        f"https://localhost:{port}/nowhere", verify=certificate["EDGE__TLS_CERTIFICATE_FILE"], timeout=20
    )

    assert (redirected.status_code, redirected.headers["Location"]) == (308, f"https://localhost:{port}/docs?x=1")
    assert probe.status_code == 200
    assert (secure.status_code, edge.logged(secure.headers["X-Request-Id"])["upstream_status"]) == (404, "404")
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in redirected.headers


def test_redirects_are_limited_as_well(new_edge: NewEdge, certificate: dict[str, str]) -> None:
    edge = new_edge(EDGE__PROFILE="strict", EDGE__TLS_BIND=f"127.0.0.1:{find_free_port()}", **certificate)

    with requests.Session() as session:
        answers = [session.get(f"{edge.url}/docs", allow_redirects=False, timeout=20) for _ in range(40)]

    assert {answer.status_code for answer in answers} == {308, 429}
    assert {answer.headers.get("Retry-After") for answer in answers} == {None, "1"}


def test_plain_http_on_the_tls_port_and_old_tls_are_refused(new_edge: NewEdge, certificate: dict[str, str]) -> None:
    port = find_free_port()
    new_edge(EDGE__TLS_BIND=f"127.0.0.1:{port}", **certificate)
    connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-cipher", "DEFAULT@SECLEVEL=0"]

    spoken = {
        version: subprocess.run([*connect, f"-{version}"], input=b"", capture_output=True, check=False).returncode
        == 0
        for version in ("tls1_1", "tls1_2", "tls1_3")
    }
    plain = requests.get(f"http://127.0.0.1:{port}/", timeout=20)

    assert (plain.status_code, plain.json()["type"]) == (400, "urn:photo-api:problem:malformed-request")
    assert spoken == {"tls1_1": False, "tls1_2": True, "tls1_3": True}


@pytest.mark.parametrize("in_time", [True, False])
def test_a_stop_finishes_what_is_under_way_and_waits_no_longer_than_the_quit_wait(
    new_edge: NewEdge, *, in_time: bool
) -> None:
    with Origin(answers=False) as origin, ExitStack() as closings:
        edge = new_edge(origin.address, EDGE__QUIT_WAIT_SECONDS="20" if in_time else "1")
        client = closings.enter_context(closing(edge.connect()))
        client.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: len(origin.requests) == 1)

        edge.quit()
        wait_for(lambda: not _is_listening(edge))
        if in_time:
            origin.answer_now()
        client.settimeout(15)
        answered = client.recv(4096)

    assert answered.startswith(b"HTTP/1.1 200 ") if in_time else answered == b""


def _is_listening(edge: Edge) -> bool:
    try:
        edge.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def test_nginx_runs_as_the_user_of_the_settings(edge: Edge) -> None:
    assert f"user {getpass.getuser()};" in edge.file.read_text(encoding="utf-8")
