"""The OpenAPI 3.1 document, written from what the operations say of themselves.

Statuses that follow from an operation's parameters (its access, body, query and path) are added here, so that no
route repeats them. A 500 is never documented: it is a mistake of ours. What every operation shares is
:mod:`app.http.vocabulary`; serving the document, and the page for people, is :mod:`app.http.docs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app import errors
from app.http import vocabulary
from app.http.examples import example_of, examples_of
from app.http.identity import Access
from app.http.operations import Changes, Media, Operation
from app.http.problems import (
    HEADERS_TOO_LARGE,
    HOST_NOT_ALLOWED,
    MEDIA_TYPE,
    TYPE_PREFIX,
    URI_TOO_LONG,
    Problem,
    problem_for,
)
from app.http.reasons import REASONS, in_order

Json = dict[str, Any]
"""An object of the document."""

_PARAMETER = re.compile(r"<(?:(?P<converter>\w+):)?(?P<name>\w+)>")
_JSON = "application/json"
_NO_CONTENT = {204: "Done; there is nothing to show.", 304: "The copy you have is still good."}
_PATH_SCHEMAS: dict[str | None, Json] = {"uuid": {"type": "string", "format": "uuid"}}
_ALWAYS_SENT = "X-Request-Id"


def build_document(operations: Sequence[Operation], *, version: str) -> Json:
    """Return the document.

    Args:
        operations: Everything the API can do.
        version: The product's version.
    """
    return _Writer(operations).document(version)


def path_of(rule: str) -> str:
    """Return a Werkzeug rule as OpenAPI writes it: ``/photos/<uuid:id>`` becomes ``/photos/{id}``."""
    return _PARAMETER.sub(r"{\g<name>}", rule)


class _Writer:
    """Writes one document; collects the components that its operations use."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._responses: dict[str, Json] = {}
        self._schemas, self._refs = _schemas_of(operations)

    def document(self, version: str) -> Json:
        paths: dict[str, Json] = {}
        for operation in self._operations:
            paths.setdefault(path_of(operation.path), {})[operation.method.lower()] = self._operation(operation)
        used = {vocabulary.tag_of(operation.path) for operation in self._operations}
        return {
            "openapi": "3.1.0",
            "info": {"title": "Photo API", "version": version, "description": vocabulary.INTRODUCTION},
            "servers": [{"url": "/", "description": "This server."}],
            "tags": [tag for tag in vocabulary.TAGS if tag["name"] in used],
            "paths": paths,
            "components": {
                "schemas": {**self._schemas, **vocabulary.PROBLEM_SCHEMAS},
                "responses": dict(sorted(self._responses.items())),
                "headers": vocabulary.ANSWER_HEADERS,
                "securitySchemes": vocabulary.SECURITY_SCHEMES,
            },
        }

    def _operation(self, operation: Operation) -> Json:
        written: Json = {
            "operationId": operation.name,
            "tags": [vocabulary.tag_of(operation.path)],
            "summary": operation.summary,
            "description": _description(operation),
            "security": _security(operation.access),
            "responses": {**self._answers(operation), **self._problems(operation)},
        }
        parameters = [
            *_path_parameters(operation),
            *_query_parameters(operation),
            *_header_parameters(operation),
        ]
        if parameters:
            written["parameters"] = parameters
        if operation.body is not None:
            written["requestBody"] = {"required": True, "content": self._body(operation)}
        return written

    def _body(self, operation: Operation) -> Json:
        if isinstance(operation.body, tuple):
            return {kind: _media_content(media) for media in operation.body for kind in media.content_types}
        schema = self._ref(operation.body, "validation")
        return {_JSON: self._json_content(schema)}

    def _json_content(self, schema: Json) -> Json:
        examples = examples_of(schema, self._schemas)
        if len(examples) == 1:
            return {"schema": schema, "example": next(iter(examples.values()))}
        return {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}

    def _ref(self, model: type[BaseModel] | None, mode: JsonSchemaMode) -> Json:
        return dict(self._refs[model, mode])

    def _answers(self, operation: Operation) -> Json:
        answers: Json = {}
        for status, answer in operation.answers.items():
            headers = (_ALWAYS_SENT, *operation.sends.get(status, ()))
            written: Json = {"description": "", "headers": {name: vocabulary.header_ref(name) for name in headers}}
            if isinstance(answer, Media):
                written["description"] = answer.description
                written["content"] = {kind: _media_content(answer) for kind in answer.content_types}
            elif answer is None:
                written["description"] = _NO_CONTENT.get(status, "Done.")
            else:
                schema = self._ref(answer, "serialization")
                written["description"] = (answer.__doc__ or "").partition("\n")[0]
                written["content"] = {_JSON: {"schema": schema, "example": example_of(schema, self._schemas)}}
            answers[str(status)] = written
        return answers

    def _problems(self, operation: Operation) -> Json:
        by_status: dict[int, list[Problem]] = {}
        for problem in problems_of(operation):
            by_status.setdefault(problem.status, []).append(problem)
        answers: Json = {}
        for status, problems in by_status.items():
            name = ".".join(problem.slug for problem in problems)
            self._responses.setdefault(name, _problem_response(status, problems))
            answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return answers


def problems_of(operation: Operation) -> list[Problem]:
    """Return the problems that an operation may answer with: its own, and those that follow from its parameters."""
    kinds: list[type[Exception]] = [errors.UnavailableError, errors.OverloadedError, errors.ValidationFailedError]
    kinds += operation.problems
    if operation.changes is not Changes.NOTHING:
        kinds.append(errors.DatabaseReadOnlyError)
    if operation.access is not Access.PUBLIC:
        kinds.append(errors.InvalidTokenError)
    if operation.access is Access.SESSION:
        kinds.append(errors.PermissionDeniedError)
    if isinstance(operation.access, str):
        kinds.append(errors.MissingScopeError)
    if isinstance(operation.body, type):
        kinds += [errors.MalformedRequestError, errors.PayloadTooLargeError, errors.UnsupportedMediaTypeError]
        kinds.append(errors.RequestTimeoutError)
    if _PARAMETER.search(operation.path):
        kinds.append(errors.NotFoundError)
    said_before = [HOST_NOT_ALLOWED]
    if operation.query is not None:
        said_before.append(URI_TOO_LONG)
    if operation.headers:
        said_before.append(HEADERS_TOO_LARGE)
    return in_order([*said_before, *map(problem_for, kinds)])


def _problem_response(status: int, problems: list[Problem]) -> Json:
    names = [_ALWAYS_SENT, *vocabulary.headers_of_status(status)]
    schema = "ValidationProblem" if any(problem.slug == "validation-failed" for problem in problems) else "Problem"
    kinds = {"status": {"const": status}, "type": {"enum": [TYPE_PREFIX + problem.slug for problem in problems]}}
    reasons = [f"`{problem.slug}`: {REASONS[problem.slug]}" for problem in problems]
    return {
        "description": reasons[0] if len(reasons) == 1 else "\n".join(f"- {reason}" for reason in reasons),
        "headers": {name: vocabulary.header_ref(name) for name in names},
        "content": {
            MEDIA_TYPE: {
                "schema": {"allOf": [{"$ref": f"#/components/schemas/{schema}"}, {"properties": kinds}]},
                "examples": {problem.slug: {"value": vocabulary.problem_example(problem)} for problem in problems},
            }
        },
    }


def _schemas_of(operations: Sequence[Operation]) -> tuple[dict[str, Json], dict[tuple[Any, JsonSchemaMode], Json]]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for operation in operations:
        if isinstance(operation.body, type):
            wanted[operation.body, "validation"] = None
        for answer in operation.answers.values():
            if isinstance(answer, type):
                wanted[answer, "serialization"] = None
    refs, written = models_json_schema(list(wanted), ref_template="#/components/schemas/{model}")
    schemas = {name: _plain(schema) for name, schema in written.get("$defs", {}).items()}
    for operation in operations:
        if operation.method == "PATCH" and isinstance(operation.body, type):
            # What a PATCH leaves out stays as it is: there is no default.
            for member in schemas[operation.body.__name__]["properties"].values():
                member.pop("default", None)
    return schemas, dict(refs)


def _plain(schema: Json) -> Json:
    """Return a schema without pydantic's titles and null defaults, which say nothing."""
    plain = {name: value for name, value in schema.items() if name != "title"}
    if "default" in plain and plain["default"] is None:
        del plain["default"]
    if "properties" in plain:
        plain["properties"] = {name: _plain(member) for name, member in plain["properties"].items()}
    return plain


def _description(operation: Operation) -> str:
    needs = vocabulary.access_sentence(operation.access)
    return f"{operation.description}\n\n{needs}"


def _security(access: Access | str) -> list[Json]:
    match access:
        case Access.PUBLIC:
            return []
        case Access.SESSION:
            return [{"bearer": []}]
        case Access.AUTHENTICATED:
            return [{"bearer": []}, {"apiKey": []}]
        case scope:
            return [{"bearer": [scope]}, {"apiKey": [scope]}]


def _path_parameters(operation: Operation) -> Iterable[Json]:
    for matched in _PARAMETER.finditer(operation.path):
        plain = _PATH_SCHEMAS.get(matched["converter"], {"type": "string"})
        schema = vocabulary.PATH_SCHEMAS.get(matched["name"], plain)
        yield {"name": matched["name"], "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation) -> Iterable[Json]:
    if operation.query is None:
        return
    schema = operation.query.model_json_schema()
    for name, member in schema["properties"].items():
        described = _plain(member)
        description = described.pop("description", None)
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if description:
            parameter["description"] = description
        yield {**parameter, "schema": described}


def _header_parameters(operation: Operation) -> Iterable[Json]:
    for name, description in operation.headers.items():
        schema = vocabulary.REQUEST_HEADER_SCHEMAS.get(name, {"type": "string"})
        yield {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _media_content(media: Media) -> Json:
    return {} if media.schema is None else {"schema": dict(media.schema)}
