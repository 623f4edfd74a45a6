"""The application and its answers: routes of any host, headers that are said once, lengths that are right."""

from __future__ import annotations

from typing import Any

import pytest
from flask import request
from werkzeug.test import create_environ, run_wsgi_app

from app.http.application import Answer, Application


def sent(answer: Answer, method: str = "GET") -> tuple[bytes, str, dict[str, str]]:
    """Return body, status line and headers as a server gets them."""
    body, status, headers = run_wsgi_app(answer, create_environ(method=method))
    return b"".join(body), status, dict(headers)


def test_an_answer_says_its_type_and_length_and_what_it_was_given() -> None:
    body, status, headers = sent(Answer(200, b"{}", {"ETag": '"v1"'}))

    assert (body, status) == (b"{}", "200 OK")
    assert headers == {"ETag": '"v1"', "Content-Type": "application/json", "Content-Length": "2"}


def test_the_answer_to_head_is_that_of_get_without_its_body() -> None:
    answer = Answer(200, b"four", {}, content_type="text/plain")

    body, status, headers = sent(answer, "HEAD")

    assert body == b""
    assert (status, headers) == sent(answer)[1:]
    assert headers["Content-Length"] == "4"


@pytest.mark.parametrize(("status", "length"), [(200, "0"), (202, "0"), (204, None), (304, None)])
def test_without_a_body_there_is_no_type_and_only_the_length_that_may_be(status: int, length: str | None) -> None:
    body, _, headers = sent(Answer(status, None, {}))

    assert body == b""
    assert headers == ({} if length is None else {"Content-Length": length})


def test_a_status_without_a_name_is_sent_too() -> None:
    assert sent(Answer(299, b"", {}))[1].startswith("299 ")


@pytest.mark.parametrize("value", ["a\nb", "a\r\nX-Other: 1"])
def test_a_header_cannot_smuggle_another_one(value: str) -> None:
    with pytest.raises(ValueError, match="newline"):
        Answer(200, None, {"X-Text": value})


def app() -> Application:
    made = Application("any", static_folder=None)

    @made.get("/things/<int:number>")
    def show(number: int) -> dict[str, Any]:
        return {"number": number, "query": request.args.get("q"), "host": request.host}

    return made


@pytest.mark.parametrize("host", ["localhost", "photos.example.org:81", "[::1]:8000", "a b", ""])
def test_a_route_is_found_whatever_the_host(host: str) -> None:
    answer = app().test_client().get("/things/7?q=x", headers={"Host": host})

    assert answer.status_code == 200
    assert (answer.json or {})["number"] == 7
    assert (answer.json or {})["query"] == "x"


@pytest.mark.parametrize(("path", "method", "status"), [("/things/x", "GET", 404), ("/things/7", "DELETE", 405)])
def test_what_no_route_takes_is_refused(path: str, method: str, status: int) -> None:
    assert app().test_client().open(path, method=method).status_code == status


def test_outside_of_a_request_no_route_is_looked_for() -> None:
    made = app()

    with made.app_context():
        assert made.create_url_adapter(None) is None
