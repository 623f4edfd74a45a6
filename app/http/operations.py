"""Operations: a route says once what it takes and answers; validation, identity and OpenAPI follow from that.

A room writes a class of methods and mounts it::

    class PhotoRoutes:
        @get("/api/v1/photos/<uuid:photo_id>", summary="…", access="photos:read", answers={200: PhotoView},
             problems=(NotFoundError,))
        def show(self, principal: Principal, photo_id: UUID) -> Reply: ...

    mount(app, PhotoRoutes(service), authenticator)

Parameters are bound by name: ``principal`` (the caller), ``body`` (a pydantic model, from JSON), ``query`` (a
pydantic model, from the query string), and the parts of the path. A HEAD request takes the GET's way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar, get_type_hints

import orjson
from flask import Flask, Request, Response, request
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from app.errors import (
    DatabaseReadOnlyError,
    MalformedRequestError,
    PayloadTooLargeError,
    PhotoApiError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from app.http.application import Answer
from app.http.identity import PUBLIC, Access, Authenticator, admit
from app.ops.modes import Changes
from app.ops.requests import identify

_JSON_BYTES_MAX = 256 * 1024
_OPERATION = "__photo_api_operation__"
_NOT_CACHED = "private, no-store"
_CACHING = dict.fromkeys(("GET", "HEAD"), "private, no-cache")
_UNKNOWN_PARAMETER = "This route does not know this parameter."


class RequestModel(BaseModel):
    """Base of everything a client sends: unknown fields are refused, types are not bent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class QueryModel(BaseModel):
    """Base of query strings: unknown parameters are refused, text is read as the field's type."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Media:
    """An answer, or a body, that is not JSON.

    Attributes:
        content_types: As OpenAPI writes them, ranges allowed (``image/*``).
        description: One sentence.
        schema: The OpenAPI schema of the content; None for bytes.
    """

    content_types: tuple[str, ...]
    description: str
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON answer.

    Attributes:
        status: The status code.
        content: A model, ready-made JSON bytes, or None for no body.
        headers: More headers.
    """

    status: int = 200
    content: BaseModel | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route says of itself; :mod:`app.http.openapi` writes the document from it.

    Attributes:
        method: The HTTP method.
        path: A Werkzeug rule.
        summary: A few words.
        description: The method's docstring.
        name: The ``operationId``.
        access: Whom it admits.
        answers: Status to model, :class:`Media`, or None for no body.
        problems: The error classes it may answer with, besides those that follow from its parameters.
        body: The model of the JSON body, a tuple of :class:`Media`, or None.
        query: The model of the query string.
        headers: Request headers it reads: name to description.
        sends: Response headers besides those of every answer: status to names.
        changes: What it changes; a mode may forbid it.
    """

    method: str
    path: str
    summary: str
    description: str
    name: str
    access: Access | str
    answers: Mapping[int, type[BaseModel] | Media | None]
    problems: tuple[type[PhotoApiError], ...]
    body: type[BaseModel] | tuple[Media, ...] | None
    query: type[BaseModel] | None
    headers: Mapping[str, str]
    sends: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    changes: Changes = Changes.NOTHING


class Door(Protocol):
    """Who tells which changes are made now; :class:`app.ops.modes.Modes` is one. Thread-safe."""

    def admit(self, changes: Changes, size_bytes: int | None) -> None:
        """Let a request pass, or raise an :class:`app.errors.UnavailableError`: nothing of its body is read yet."""
        ...

    def note_refused(self) -> None:
        """Hear that the database has refused a change because it takes none."""
        ...


_Handler: TypeAlias = "Callable[..., Reply | Response]"
_Model = TypeVar("_Model", bound=BaseModel)


def _operation(
    method: str,
    path: str,
    *,
    summary: str,
    access: Access | str,
    answers: Mapping[int, type[BaseModel] | Media | None],
    problems: Sequence[type[PhotoApiError]] = (),
    media_body: tuple[Media, ...] | None = None,
    headers: Mapping[str, str] | None = None,
    sends: Mapping[int, tuple[str, ...]] | None = None,
    changes: Changes | None = None,
) -> Callable[[_Handler], _Handler]:
    def mark(function: _Handler) -> _Handler:
        hints = get_type_hints(function)
        operation = Operation(
            method=method,
            path=path,
            summary=summary,
            description=inspect.getdoc(function) or "",
            name=function.__name__,
            access=access,
            answers=answers,
            problems=tuple(problems),
            body=hints.get("body") or media_body,
            query=hints.get("query"),
            headers=headers or {},
            sends=sends or {},
            changes=changes or (Changes.NOTHING if method == "GET" else Changes.RECORDS),
        )
        setattr(function, _OPERATION, operation)
        return function

    return mark


get = functools.partial(_operation, "GET")
post = functools.partial(_operation, "POST")
put = functools.partial(_operation, "PUT")
patch = functools.partial(_operation, "PATCH")
delete = functools.partial(_operation, "DELETE")


def operations_of(routes: object) -> list[tuple[Operation, _Handler]]:
    """Return the operations of a routes object with their bound methods, in the order they are written."""
    return [(operation, getattr(routes, operation.name)) for operation in declared_operations(type(routes))]


def declared_operations(routes: type) -> list[Operation]:
    """Return the operations of a class of routes, in the order they are written; nothing needs to be built."""
    marks = [getattr(member, _OPERATION, None) for member in vars(routes).values()]
    return [mark for mark in marks if isinstance(mark, Operation)]


def mount(app: Flask, routes: object, authenticator: Authenticator, door: Door | None = None) -> list[Operation]:
    """Add every operation of a routes object to an app.

    Args:
        app: The Flask app.
        routes: An object whose methods carry operations.
        authenticator: Who knows tokens and keys.
        door: Who tells which changes are made now; all are without one.

    Returns:
        The operations, for the OpenAPI document.
    """
    mounted = []
    for operation, handler in operations_of(routes):
        app.add_url_rule(
            operation.path,
            endpoint=f"{operation.method} {operation.path}",
            view_func=_view(operation, handler, authenticator, door),
            methods=[operation.method],
            provide_automatic_options=False,
        )
        mounted.append(operation)
    return mounted


def _view(
    operation: Operation, handler: _Handler, authenticator: Authenticator, door: Door | None
) -> Callable[..., Response]:
    is_for_caller = "principal" in inspect.signature(handler).parameters
    if operation.changes is Changes.NOTHING:
        door = None
    if door is not None:
        handler = _watched(handler, door)
    json_model = operation.body if isinstance(operation.body, type) else None

    def view(**parameters: Any) -> Response:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  # each look through Werkzeug's proxy costs
        principal = admit(asked, operation.access, authenticator)
        if principal is not None:
            identify(str(principal.user_id))
        if is_for_caller:
            parameters["principal"] = principal
        if door is not None:
            door.admit(operation.changes, asked.content_length)
        if operation.query is not None or asked.query_string:
            parameters |= _query(operation.query)
        if json_model is not None:
            parameters["body"] = read_json(json_model)
        return _render(handler(**parameters), asked.method)

    return view


def _watched(handler: _Handler, door: Door) -> _Handler:
    def watched(**parameters: Any) -> Reply | Response:
        try:
            return handler(**parameters)
        except DatabaseReadOnlyError:
            door.note_refused()
            raise

    return watched


def _query(model: type[BaseModel] | None) -> dict[str, BaseModel]:
    raw = request.args.to_dict(flat=False)
    repeated = sorted(name for name, values in raw.items() if len(values) > 1)
    if repeated:
        mistakes = [{"parameter": name, "detail": "Give this parameter once."} for name in repeated]
        raise ValidationFailedError("A query parameter is given more than once.", mistakes)
    if model is None:
        if raw:
            unknown = [{"parameter": name, "detail": _UNKNOWN_PARAMETER} for name in raw]
            raise ValidationFailedError("This route takes no query parameters.", unknown)
        return {}
    try:
        return {"query": model.model_validate({name: values[0] for name, values in raw.items()})}
    except ValidationError as error:
        known = f"{_UNKNOWN_PARAMETER} It knows: {', '.join(model.model_fields)}."
        mistakes = [
            {
                "parameter": str(item["loc"][0]) if item["loc"] else "",
                "detail": known if item["type"] == "extra_forbidden" else mistake_of(item),
            }
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise ValidationFailedError("Some query parameters are wrong.", mistakes) from None


def read_json(model: type[_Model]) -> _Model:
    """Return the request's JSON body as a model.

    Raises:
        UnsupportedMediaTypeError: The body is not declared as JSON.
        PayloadTooLargeError: It is larger than 256 KiB.
        MalformedRequestError: It is not JSON: syntax, depth, digits, encoding.
        ValidationFailedError: It is JSON, but fields are wrong, missing or unknown.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError("Send the body as JSON, with 'Content-Type: application/json'.")
    if (request.content_length or 0) > _JSON_BYTES_MAX:
        raise PayloadTooLargeError(f"A JSON body may have at most {_JSON_BYTES_MAX} bytes.")
    raw = read_body(_JSON_BYTES_MAX)
    _require_strict_numbers(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _validation_failed(error, model) from None


def _require_strict_numbers(raw: bytes) -> None:
    """Refuse what no JSON has, and pydantic reads all the same: ``NaN`` and ``Infinity`` as numbers."""
    if b"NaN" in raw or b"Infinity" in raw:  # mostly these stand in a text, which is fine
        try:
            orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise MalformedRequestError(f"The body is not valid JSON: {error.msg}.") from None


def mistake_of(item: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors says, without the words it puts before ours."""
    if item["type"] == "extra_forbidden":
        return "There is no such field."
    return str(item["msg"]).removeprefix("Value error, ")


def _validation_failed(error: ValidationError, model: type[BaseModel]) -> PhotoApiError:
    items = error.errors(include_input=False, include_url=False)
    for item in items:
        if item["type"] == "json_invalid":
            return MalformedRequestError(f"The body is not valid JSON: {item['ctx']['error']}.")
    # In a choice of models pydantic puts the name of the chosen one first, which is no part of the body.
    skipped = 1 if issubclass(model, RootModel) else 0
    mistakes = [{"pointer": pointer_of(item["loc"][skipped:]), "detail": mistake_of(item)} for item in items]
    return ValidationFailedError("Some fields are wrong, missing or unknown.", mistakes)


def pointer_of(parts: Sequence[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) to a place in a body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def read_body(max_bytes: int) -> bytes:
    """Return the whole request body, which must be small.

    Raises:
        PayloadTooLargeError: It is larger than ``max_bytes``.
        RequestTimeoutError: It came too slowly.
        MalformedRequestError: It cannot be read: broken chunks, or the client left.
    """
    try:
        raw = request.stream.read(max_bytes + 1)
    except PhotoApiError:
        raise
    except TimeoutError as error:
        raise RequestTimeoutError from error
    except Exception as error:  # the server's stream raises its own classes for broken chunks
        raise MalformedRequestError("The body cannot be read: it is incomplete or its framing is broken.") from error
    if len(raw) > max_bytes:
        raise PayloadTooLargeError(f"A body here may have at most {max_bytes} bytes.")
    return raw


def _render(reply: Reply | Response, method: str) -> Response:
    if isinstance(reply, Response):
        return reply
    content = reply.content
    raw = content.model_dump_json(by_alias=True).encode() if isinstance(content, BaseModel) else content
    headers = {"Cache-Control": _CACHING.get(method, _NOT_CACHED), **reply.headers}
    return Answer(reply.status, raw, headers)


__all__ = [
    "PUBLIC",
    "Changes",
    "Door",
    "Media",
    "Operation",
    "QueryModel",
    "Reply",
    "RequestModel",
    "declared_operations",
    "delete",
    "get",
    "mistake_of",
    "mount",
    "operations_of",
    "patch",
    "pointer_of",
    "post",
    "put",
    "read_body",
    "read_json",
]
