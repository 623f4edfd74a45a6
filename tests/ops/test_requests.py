"""Every request is counted, logged once, and in flight until its body is closed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.test import create_environ
from werkzeug.wsgi import FileWrapper

from app.ops.lifecycle import Lifecycle
from app.ops.logging import bind, bound, is_reported, mark_reported, unbind_all
from app.ops.metrics import Metrics
from app.ops.requests import COUNTED_KEY, REQUEST_LOGGER, InFlight, RequestRecorder, identify

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    unbind_all()
    yield
    unbind_all()


class Body:
    """A body that knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a", b"b"])

    def read(self, _size: int = -1) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True


def call(application: Any, **environ: Any) -> Any:
    return application({**create_environ("/"), **environ}, lambda *_: None)


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what its module has logged; other threads of this process may log, too."""
    return [record for record in caplog.records if record.name == REQUEST_LOGGER]


def test_a_request_is_in_flight_until_its_body_is_closed() -> None:
    lifecycle, body = Lifecycle(), Body()

    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        return body

    answer = call(InFlight(application, lifecycle))
    chunks = list(answer)

    assert (chunks, lifecycle.in_flight) == ([b"a", b"b"], 1)
    answer.close()
    assert (lifecycle.in_flight, body.closed) == (0, True)


def test_a_body_for_sendfile_stays_one_and_is_counted_too() -> None:
    lifecycle, file = Lifecycle(), Body()

    def application(environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped

    answer = call(InFlight(application, lifecycle), **{"wsgi.file_wrapper": FileWrapper})

    assert isinstance(answer, FileWrapper)
    assert lifecycle.in_flight == 1
    answer.close()
    assert (lifecycle.in_flight, file.closed) == (0, True)


@pytest.mark.parametrize("file", [False, True], ids=["chunks", "sendfile"])
def test_what_the_server_counts_is_not_counted_twice_and_its_context_ends_all_the_same(*, file: bool) -> None:
    lifecycle, body = Lifecycle(), Body()
    lifecycle.enter()  # the server, at the first byte

    def application(environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        bind(request_id="r-1")
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](body) if file else body
        return wrapped

    answer = call(InFlight(application, lifecycle), **{COUNTED_KEY: True, "wsgi.file_wrapper": FileWrapper})
    counted = lifecycle.in_flight
    answer.close()

    assert (counted, lifecycle.in_flight) == (1, 1)
    assert (bound(), body.closed) == ({}, True)


def test_what_the_server_counts_stays_counted_when_the_application_raises() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter()

    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(InFlight(application, lifecycle), **{COUNTED_KEY: True})

    assert lifecycle.in_flight == 1


def test_an_application_that_raises_leaves_nothing_in_flight() -> None:
    lifecycle = Lifecycle()

    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(InFlight(application, lifecycle))

    assert lifecycle.in_flight == 0


def test_what_breaks_a_body_is_logged_once_and_still_raised(caplog: pytest.LogCaptureFixture) -> None:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        yield b"a"
        raise RuntimeError

    answer = call(InFlight(application, Lifecycle()))

    with pytest.raises(RuntimeError) as caught:
        list(answer)

    assert [record.levelname for record in said(caplog)] == ["ERROR"]
    assert is_reported(caught.value)


def test_what_was_logged_where_it_happened_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        yield b"a"
        error = RuntimeError()
        mark_reported(error)
        raise error

    with pytest.raises(RuntimeError):
        list(call(InFlight(application, Lifecycle())))

    assert said(caplog) == []


def test_a_request_is_one_line_with_route_status_and_duration(caplog: pytest.LogCaptureFixture) -> None:
    recorder = RequestRecorder(Metrics(version="1"))

    with caplog.at_level(logging.INFO, REQUEST_LOGGER):
        recorder.request_started("r-1", "/x/<id>")
        recorder.request_ended("GET", "/x/<id>", 200, 0.0123)

    (record,) = said(caplog)
    facts = record.__dict__
    assert (facts["method"], facts["route"], facts["status"], facts["duration_ms"]) == ("GET", "/x/<id>", 200, 12.3)


def test_what_one_request_bound_is_gone_for_the_next_on_the_same_thread() -> None:
    recorder, lifecycle = RequestRecorder(Metrics(version="1")), Lifecycle()
    recorder.request_started("r-1", "/x/<id>")
    identify("u-1")
    identify("u-1")
    first = dict(bound())

    recorder.request_started("r-2", "(none)")
    second = dict(bound())
    call(InFlight(lambda _environ, _start: [], lifecycle)).close()

    assert first == {"request_id": "r-1", "route": "/x/<id>", "user_id": "u-1"}
    assert second == {"request_id": "r-2", "route": "unmatched"}
    assert bound() == {}


def test_a_request_that_matched_no_route_is_counted_as_unmatched() -> None:
    metrics = Metrics(version="1")

    RequestRecorder(metrics).request_ended("GET", "(none)", 404, 0.1)

    assert metrics.http_requests.labels("GET", "unmatched", "404")._value.get() == 1
