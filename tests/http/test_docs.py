"""``/openapi.json`` and ``/docs``: public, cached, strict; the page shows everything and asks nobody else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from app.http.docs import mount_documentation
from app.http.reasons import REASONS, known_problems
from tests.http.edge import build_app
from tests.http.test_openapi import DOCUMENT, OPERATIONS, documented

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """What a page holds; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [attributes[attribute] or "" for attributes in found if attribute in attributes]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    app = build_app()
    mount_documentation(app, OPERATIONS, version="1.2.3")
    return app.test_client()


@pytest.fixture(scope="module")
def page(client: FlaskClient) -> Page:
    return Page(client.get("/docs").text)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_documentation_is_public_and_answered_304_while_it_is_the_same(client: FlaskClient, path: str) -> None:
    first = client.get(path)

    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    head = client.head(path)

    assert first.status_code == 200
    assert first.headers["Cache-Control"] == "public, no-cache"
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == str(len(first.data))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_documentation_can_only_be_read(client: FlaskClient, method: str) -> None:
    answer = client.open("/docs", method=method)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_the_document_served_is_the_one_that_was_built(client: FlaskClient) -> None:
    assert json.loads(client.get("/openapi.json").data) == DOCUMENT


def test_the_page_runs_nothing_and_loads_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    names = {name for _, attributes in page.elements for name in attributes}
    links = page.all("a", "href") + page.all("link", "href")

    assert not tags & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert {name for name in names if name.startswith("on") or name == "style"} == set()
    assert [link for link in links if not link.startswith(("#", "/", "data:,"))] == []


def test_the_policy_admits_the_style_of_the_page_and_nothing_else(client: FlaskClient) -> None:
    answer = client.get("/docs")
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{digest}'"
    assert "script-src" not in policy
    assert "http" not in style
    assert "@import" not in style


def test_every_operation_stands_on_the_page(page: Page) -> None:
    for route, operation in documented(DOCUMENT):
        method, _, path = route.partition(" ")

        assert f"{operation['summary']} {method} {path}" in page.text
        assert re.sub(r"[^a-z0-9]+", "-", operation["operationId"].lower()) in page.all("article", "id")


def test_every_problem_type_and_schema_stands_on_the_page(page: Page) -> None:
    assert {problem.slug for problem in known_problems()} <= set(page.all("tr", "id"))
    for reason in REASONS.values():
        assert re.sub(r"\s+", " ", reason.replace("`", "")) in page.text
    for name in DOCUMENT["components"]["schemas"]:
        assert f"schema-{name.lower()}" in page.all("article", "id")


def test_every_link_within_the_page_leads_somewhere_once(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]

    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.all("a", "href") if link.startswith("#")} <= set(ids)


def test_the_page_names_its_language_and_fits_a_phone(page: Page) -> None:
    assert page.all("html", "lang") == ["en"]
    assert "width=device-width, initial-scale=1" in page.all("meta", "content")
