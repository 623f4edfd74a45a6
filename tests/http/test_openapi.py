"""The OpenAPI document: valid, complete, and true to the models; what follows from an operation's parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource

from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
from app.accounts.scopes import ADMIN_SCOPES, USER_SCOPES
from app.cli.main import main
from app.errors import ConflictError
from app.http import vocabulary
from app.http.identity import AUTHENTICATED, PUBLIC, SESSION, Principal
from app.http.openapi import Json, build_document, path_of
from app.http.operations import (
    Media,
    QueryModel,
    Reply,
    RequestModel,
    declared_operations,
    get,
    patch,
    post,
)
from app.http.problems import INTERNAL
from app.http.reasons import REASONS, known_problems
from app.photos.link_routes import LinkRoutes
from app.photos.original_routes import OriginalRoutes
from app.photos.routes import PhotoRoutes
from app.photos.upload_routes import UploadRoutes
from app.renditions.routes import RenditionRoutes

PHOTO_ROOMS = (UploadRoutes, PhotoRoutes, OriginalRoutes, RenditionRoutes, LinkRoutes)
ROOMS = (UserRoutes, SessionRoutes, ApiKeyRoutes, *PHOTO_ROOMS)
OPERATIONS = [operation for routes in ROOMS for operation in declared_operations(routes)]
DOCUMENT = build_document(OPERATIONS, version="1.2.3")
METHODS = ("get", "post", "patch", "delete")


def documented(document: Json) -> Iterator[tuple[str, Json]]:
    """Yield each operation by ``METHOD path``."""
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield f"{method.upper()} {path}", methods[method]


def everywhere(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from everywhere(value)
    elif isinstance(node, list):
        for value in node:
            yield from everywhere(value)


def judge(schema: Json) -> Draft202012Validator:
    """Return a validator of a schema that may refer to the document's components."""
    resource = Resource.from_contents(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"]}
    )
    local = json.loads(json.dumps(schema).replace('"#/components', '"urn:document#/components'))
    registry: Registry[Any] = Registry().with_resource("urn:document", resource)
    return Draft202012Validator(local, registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER)


def examples() -> Iterator[tuple[Json, Any]]:
    """Yield every schema of the document that has examples beside it, with each of them."""
    for node in everywhere(DOCUMENT):
        if not isinstance(node.get("schema"), dict):
            continue
        if "example" in node:
            yield node["schema"], node["example"]
        for example in node.get("examples", {}).values():
            yield node["schema"], example["value"]
        for example in node["schema"].get("examples", ()):
            yield node["schema"], example


class Body(RequestModel):
    """A body."""

    title: str = "none"


class Question(QueryModel):
    """A query."""

    limit: int = 10


class TryRoutes:
    """One operation of each kind."""

    @get("/api/v1/photos/<uuid:photo_id>", summary="s", access=PUBLIC, answers={200: Body})
    def public(self, photo_id: UUID) -> Reply:
        """Public."""
        return Reply(200, Body(title=str(photo_id)))

    @get("/api/v1/photos", summary="s", access="photos:read", answers={200: Body, 304: None})
    def scoped(self, principal: Principal, query: Question) -> Reply:
        """Scoped."""
        return Reply(200, Body(title=f"{principal} {query}"))

    @patch("/api/v1/photos", summary="s", access=SESSION, answers={204: None}, problems=(ConflictError,))
    def changed(self, body: Body) -> Reply:
        """Changed."""
        return Reply(204, body)

    @post(
        "/api/v1/raw",
        summary="s",
        access=AUTHENTICATED,
        answers={201: Media(("image/*",), "Bytes.")},
        media_body=(Media(("image/*",), "Bytes."),),
        headers={"Range": "Which."},
        sends={201: ("Location",)},
    )
    def raw(self) -> Reply:
        """Raw."""
        return Reply(201)


TRIED = build_document(declared_operations(TryRoutes), version="1")
TRIED_OPERATIONS = dict(documented(TRIED))


def test_the_document_is_valid_openapi_3_1() -> None:
    validate(DOCUMENT)

    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_operation_has_a_name_of_its_own_words_and_a_group() -> None:
    names = [operation["operationId"] for _, operation in documented(DOCUMENT)]
    groups = {tag["name"] for tag in DOCUMENT["tags"]}

    assert len(names) == len(OPERATIONS) == len(set(names))
    for route, operation in documented(DOCUMENT):
        assert operation["summary"], route
        assert operation["description"], route
        assert set(operation["tags"]) <= groups, route


def test_every_component_is_used_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    used = set(re.findall(r'"#/components/(\w+)/([^"]+)"', text))
    has = {(kind, name) for kind, components in DOCUMENT["components"].items() for name in components}

    assert used <= has
    assert {(kind, name) for kind, name in has - used if kind not in {"securitySchemes", "headers"}} == set()


def test_every_example_fits_its_schema() -> None:
    wrong = [
        (error.message, example) for schema, example in examples() for error in judge(schema).iter_errors(example)
    ]

    assert wrong == []
    assert sum(1 for _ in examples()) > 50


def test_examples_of_bodies_pass_the_models_that_judge_requests() -> None:
    bodies = [operation for operation in OPERATIONS if isinstance(operation.body, type)]

    for operation in bodies:
        assert isinstance(operation.body, type)
        media = dict(documented(DOCUMENT))[f"{operation.method} {path_of(operation.path)}"]["requestBody"]["content"]
        shown = media["application/json"]
        for example in [shown["example"]] if "example" in shown else [e["value"] for e in shown["examples"].values()]:
            operation.body.model_validate_json(json.dumps(example))

    assert len(bodies) > 5


def test_no_operation_documents_a_mistake_of_the_server() -> None:
    statuses = {status for _, operation in documented(DOCUMENT) for status in operation["responses"]}

    assert "500" not in statuses
    assert "503" in statuses


def test_every_problem_has_one_reason_and_every_reason_a_problem() -> None:
    assert {problem.slug for problem in known_problems()} == set(REASONS)


def test_a_problem_is_documented_with_its_types_and_reasons() -> None:
    response = DOCUMENT["components"]["responses"]["invalid-token"]

    content = response["content"]["application/problem+json"]
    kinds = content["schema"]["allOf"][1]["properties"]

    assert kinds["type"]["enum"] == ["urn:photo-api:problem:invalid-token"]
    assert kinds["status"]["const"] == 401
    assert REASONS["invalid-token"] in response["description"]
    assert set(response["headers"]) == {"X-Request-Id", "WWW-Authenticate"}
    assert set(content["examples"]) == {"invalid-token"}


def test_the_internal_error_is_known_but_stands_in_no_operation() -> None:
    assert INTERNAL in known_problems()
    assert "internal-error" not in json.dumps(DOCUMENT["paths"])


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_status_that_asks_to_wait_says_how_long(status: str) -> None:
    answers = [operation["responses"] for _, operation in documented(DOCUMENT)]

    names = {answer[status]["$ref"].rpartition("/")[2] for answer in answers if status in answer}

    assert names
    for name in names:
        assert "Retry-After" in DOCUMENT["components"]["responses"][name]["headers"]


def test_the_scopes_described_are_those_that_exist() -> None:
    assert set(vocabulary.SCOPES) == USER_SCOPES | ADMIN_SCOPES
    for name in vocabulary.SCOPES:
        assert f"`{name}`" in DOCUMENT["components"]["securitySchemes"]["bearer"]["description"]


def test_the_scope_of_an_operation_stands_in_its_security() -> None:
    for route, operation in documented(DOCUMENT):
        declared = next(o for o in OPERATIONS if f"{o.method} {path_of(o.path)}" == route)
        scopes = {scope for requirement in operation["security"] for names in requirement.values() for scope in names}

        assert scopes == ({declared.access} if isinstance(declared.access, str) else set()), route
        assert bool(operation["security"]) == (declared.access is not PUBLIC), route


@pytest.mark.parametrize(
    ("route", "statuses"),
    [
        ("GET /api/v1/photos/{photo_id}", "200 400 404 422 503"),
        ("GET /api/v1/photos", "200 304 400 401 403 414 422 503"),
        ("PATCH /api/v1/photos", "204 400 401 403 408 409 413 415 422 503"),
        ("POST /api/v1/raw", "201 400 401 422 431 503"),
    ],
)
def test_statuses_follow_from_parameters(route: str, statuses: str) -> None:
    assert sorted(TRIED_OPERATIONS[route]["responses"]) == statuses.split()


def test_parameters_come_from_path_query_and_headers() -> None:
    path = TRIED_OPERATIONS["GET /api/v1/photos/{photo_id}"]["parameters"]
    query = TRIED_OPERATIONS["GET /api/v1/photos"]["parameters"]
    headers = TRIED_OPERATIONS["POST /api/v1/raw"]["parameters"]

    assert path == [
        {"name": "photo_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    ]
    assert [(p["name"], p["in"], p["required"], p["schema"]) for p in query] == [
        ("limit", "query", False, {"default": 10, "type": "integer"})
    ]
    assert [(p["name"], p["in"], p["description"]) for p in headers] == [("Range", "header", "Which.")]


def test_a_field_left_out_of_a_patch_has_no_default() -> None:
    assert "default" not in TRIED["components"]["schemas"]["Body"]["properties"]["title"]


def test_headers_that_an_answer_sends_are_documented() -> None:
    answer = TRIED_OPERATIONS["POST /api/v1/raw"]["responses"]["201"]

    assert set(answer["headers"]) == {"X-Request-Id", "Location"}


def test_a_header_without_description_is_refused() -> None:
    unknown = replace(declared_operations(TryRoutes)[3], sends={201: ("X-No",)})

    with pytest.raises(KeyError, match="X-No"):
        build_document([unknown], version="1")


def test_a_model_used_twice_is_one_component() -> None:
    photo = [s for s in DOCUMENT["components"]["schemas"] if s.startswith("PhotoView")]

    assert photo == ["PhotoView"]


def test_a_choice_is_told_by_its_discriminator() -> None:
    schema = DOCUMENT["components"]["schemas"]["BatchRequest"]

    assert schema["discriminator"]["propertyName"] == "action"
    assert set(schema["discriminator"]["mapping"]) == {"delete", "restore", "tag"}


def test_the_command_prints_the_document_without_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOTO_API_DATABASE__URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")

    printed = main(["openapi"])
    written = main(["openapi", "--output", str(tmp_path / "openapi.json")])
    refused = main(["openapi", "--output", str(tmp_path / "no" / "openapi.json")])

    output = capsys.readouterr()
    assert (printed, written, refused) == (0, 0, 1)
    assert json.loads(output.out)["paths"] == DOCUMENT["paths"]
    assert json.loads((tmp_path / "openapi.json").read_text(encoding="utf-8")) == json.loads(output.out)
    assert "cannot be written" in output.err
