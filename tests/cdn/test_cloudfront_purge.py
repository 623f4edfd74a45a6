"""Invalidations: what Amazon is asked for, and what its answers mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.cdn.cloudfront_purge import CloudFrontPurger
from app.errors import UnavailableError, UpstreamDeniedError, UpstreamTimeoutError
from tests.fakes.call_observer import RememberingObserver

_CREATED = (
    '<?xml version="1.0"?><Invalidation xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Id>I1</Id>'
    "<Status>InProgress</Status></Invalidation>"
)
_ERROR = "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code><Message>secret</Message></Error></ErrorResponse>"


class Amazon:
    """CloudFront's API on loopback: remembers what it is asked and answers as told."""

    def __init__(self) -> None:
        self.status, self.content = 201, _CREATED
        self.asked: list[tuple[str, str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        amazon = self

        class Requests(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                amazon.asked.append((self.path, self.headers["Authorization"], body))
                amazon.gate.wait(60)
                content = amazon.content.encode()
                self.send_response(amazon.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]  # clients that have gone
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Amazon]:
    amazon = Amazon()
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFRONT", amazon.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    thread = threading.Thread(target=amazon.server.serve_forever, args=(0.02,))
    thread.start()
    yield amazon
    amazon.gate.set()
    amazon.server.shutdown()
    amazon.server.server_close()
    thread.join(20)


@pytest.fixture
def observer() -> RememberingObserver:
    return RememberingObserver()


@pytest.fixture
def purger(amazon: Amazon, observer: RememberingObserver) -> Iterator[CloudFrontPurger]:
    del amazon  # it is there before it is asked
    purger = CloudFrontPurger("E1", base_path="/p/", timeout_seconds=20, observer=observer)
    yield purger
    purger.close()


def test_an_order_names_each_path_once_and_is_signed(
    amazon: Amazon, purger: CloudFrontPurger, observer: RememberingObserver
) -> None:
    purger.purge(["/b%20c.jpg", "/a.jpg", "/a.jpg"])

    ((path, authorization, body),) = amazon.asked
    assert path == "/2020-05-31/distribution/E1/invalidation"
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=key-id/")
    assert "<Quantity>2</Quantity><Items><Path>/p/a.jpg</Path><Path>/p/b%20c.jpg</Path></Items>" in body
    assert observer.calls == [("cdn", "purge", "success", "")]


def test_the_same_order_has_the_same_reference(amazon: Amazon, purger: CloudFrontPurger) -> None:
    purger.purge(["/a.jpg", "/b.jpg"])
    purger.purge(["/b.jpg", "/a.jpg"])
    purger.purge(["/a.jpg"])

    references = [body.partition("<CallerReference>")[2].partition("<")[0] for _, _, body in amazon.asked]
    assert references[0] == references[1] != references[2]


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchDistribution"), (400, "Invalid")])
def test_a_refusal_is_an_operators_matter_and_not_repeated_to_clients(
    amazon: Amazon, purger: CloudFrontPurger, status: int, code: str
) -> None:
    amazon.status, amazon.content = status, _ERROR.format(code)

    with pytest.raises(UpstreamDeniedError) as caught:
        purger.purge(["/a.jpg"])

    assert "secret" not in caught.value.detail
    assert len(amazon.asked) == 1


@pytest.mark.parametrize(("status", "code"), [(500, "Oops"), (400, "TooManyInvalidationsInProgress"), (503, "Slow")])
def test_what_passes_by_itself_is_unavailable(
    amazon: Amazon, purger: CloudFrontPurger, status: int, code: str
) -> None:
    amazon.status, amazon.content = status, _ERROR.format(code)

    with pytest.raises(UnavailableError) as caught:
        purger.purge(["/a.jpg"])

    assert type(caught.value) is UnavailableError
    assert len(amazon.asked) == 1


def test_an_api_that_hangs_costs_its_timeout(amazon: Amazon, observer: RememberingObserver) -> None:
    amazon.gate.clear()
    purger = CloudFrontPurger("E1", base_path="/p/", timeout_seconds=0.5, observer=observer)

    with pytest.raises(UpstreamTimeoutError):
        purger.purge(["/a.jpg"])

    purger.close()


def test_a_path_in_another_form_is_not_sent(amazon: Amazon, purger: CloudFrontPurger) -> None:
    with pytest.raises(ValueError, match="canonical"):
        purger.purge(["/*"])

    assert amazon.asked == []
