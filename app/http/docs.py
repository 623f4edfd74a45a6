"""``/openapi.json`` for machines and ``/docs`` for people: both made once from the same document, then cached.

The page is plain HTML without scripts, fonts or anything else from another place; its one style sheet stands in it
and is named by its hash in the Content-Security-Policy.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from flask import Flask, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.http import conditional, vocabulary
from app.http.examples import example_of, resolve
from app.http.openapi import Json, build_document
from app.http.operations import Operation
from app.http.problems import TYPE_PREFIX
from app.http.reasons import REASONS, known_problems

_FOLDER: Final = Path(__file__).resolve().parent
_METHODS = ("get", "post", "put", "patch", "delete")
_CODE = re.compile(r"`([^`]+)`")
_API_PREFIX = "/api/v1"  # the walk at the page's beginning has it in $api
_UPLOAD_ARGUMENTS = " \\\n  -F file=@photo.jpg -F title='First light'"


@dataclass(frozen=True, slots=True)
class Served:
    """Bytes to serve as they are."""

    content: bytes
    content_type: str
    policy: str
    tag: str


def mount_documentation(app: Flask, operations: Sequence[Operation], *, version: str) -> None:
    """Add ``/openapi.json`` and ``/docs`` to an app.

    Args:
        app: The Flask app.
        operations: Everything the API can do; read at the first request for one of the two.
        version: The product's version.
    """

    @functools.cache
    def document() -> Json:
        return build_document(operations, version=version)

    _serve(app, "/openapi.json", functools.cache(lambda: _for_machines(document())))
    _serve(app, "/docs", functools.cache(lambda: _for_people(document())))


def mount_document(app: Flask, operations: Sequence[Operation], *, version: str) -> None:
    """Add ``/openapi.json`` alone to an app whose operations are few and none of the public's.

    Args:
        app: The Flask app.
        operations: Everything it can do.
        version: The product's version.
    """
    _serve(app, "/openapi.json", functools.cache(lambda: _for_machines(build_document(operations, version=version))))


def _serve(app: Flask, path: str, served: Callable[[], Served]) -> None:
    def view() -> Response:
        page = served()
        unchanged = conditional.is_unchanged(page.tag)
        headers = {
            "ETag": conditional.quoted(page.tag),
            "Cache-Control": "public, no-cache",
            "Content-Security-Policy": page.policy,
        }
        if unchanged:
            return Response(status=304, headers=headers)
        return Response(page.content, headers=headers, content_type=page.content_type)

    app.add_url_rule(path, endpoint=path, view_func=view, methods=["GET"], provide_automatic_options=False)


def _for_machines(document: Json) -> Served:
    content = orjson.dumps(document)
    policy = "default-src 'none'; frame-ancestors 'none'"
    return Served(content, "application/json", policy, conditional.tag_of(content))


def _for_people(document: Json) -> Served:
    style = (_FOLDER / "docs.css").read_text(encoding="utf-8")
    content = render_page(document, style).encode()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Served(content, "text/html; charset=utf-8", policy, conditional.tag_of(content))


def render_page(document: Json, style: str) -> str:
    """Return the page for people.

    Args:
        document: The OpenAPI document.
        style: The style sheet, written into the page.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(prose=_prose, anchor=_anchor, pretty=_pretty)
    view = _View(document)
    return environment.get_template("docs.html").render(
        info=document["info"],
        style=Markup(style),  # noqa: S704  # our own file, the same text whose hash the policy names
        groups=view.groups(),
        schemas=view.schemas(),
        problems=known_problems(),
        reasons=REASONS,
        type_prefix=TYPE_PREFIX,
        scopes=vocabulary.SCOPES,
        security_schemes=document["components"]["securitySchemes"],
    )


class _View:
    """What the template needs to know of a document."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._components = document["components"]
        self._schemas = self._components["schemas"]

    def groups(self) -> list[Json]:
        return [
            {**tag, "operations": [self._operation(*found) for found in self._found(tag["name"])]}
            for tag in self._document["tags"]
        ]

    def _found(self, tag: str) -> Iterator[tuple[str, str, Json]]:
        for path, methods in self._document["paths"].items():
            for method in _METHODS:
                if method in methods and methods[method]["tags"] == [tag]:
                    yield path, method, methods[method]

    def _operation(self, path: str, method: str, operation: Json) -> Json:
        content = operation.get("requestBody", {}).get("content", {})
        parameters = operation.get("parameters", ())
        return {
            **operation,
            "path": path,
            "method": method.upper(),
            "parameters": [{**parameter, "kind": self._kind(parameter["schema"])} for parameter in parameters],
            "bodies": [self._body(kind, media) for kind, media in content.items()],
            "answers": [self._answer(status, answer) for status, answer in operation["responses"].items()],
            "curl": self._curl(path, method, operation, content),
        }

    def _body(self, kind: str, media: Json) -> Json:
        schema = media.get("schema", {})
        resolved = resolve(schema, self._schemas)
        variants = resolved.get("oneOf") or [schema]
        return {
            "content_type": kind,
            "variants": [
                {"name": self._name(variant) if len(variants) > 1 else None, "fields": self._fields(variant)}
                for variant in variants
            ],
        }

    def _name(self, schema: Json) -> str:
        return str(schema.get("$ref", "")).rpartition("/")[2]

    def _fields(self, schema: Json) -> list[Json]:
        resolved = resolve(schema, self._schemas)
        required = resolved.get("required", ())
        return [
            {
                "name": name,
                "kind": self._kind(member),
                "is_required": name in required,
                "description": resolve(member, self._schemas).get("description", ""),
            }
            for name, member in resolved.get("properties", {}).items()
        ]

    def _answer(self, status: str, answer: Json) -> Json:
        if "$ref" in answer:
            answer = self._components["responses"][answer["$ref"].rpartition("/")[2]]
        content = answer.get("content", {})
        media: Json = next(iter(content.values()), {})
        return {
            "status": status,
            "is_problem": "application/problem+json" in content,
            "description": answer["description"],
            "content_types": list(content),
            "schema": self._name(media.get("schema", {})),
            "headers": [name for name in answer.get("headers", {}) if name != "X-Request-Id"],
            "example": media.get("example"),
        }

    def schemas(self) -> list[Json]:
        return [
            {
                "name": name,
                "description": schema.get("description", ""),
                "fields": self._fields(schema),
                "variants": [self._name(variant) for variant in schema.get("oneOf", ())],
            }
            for name, schema in sorted(self._schemas.items())
        ]

    def _kind(self, schema: Json) -> Markup:
        """Return a schema's type in words, with links to components."""
        if "$ref" in schema:
            name = self._name(schema)
            return Markup('<a href="#{}">{}</a>').format(_anchor(f"schema-{name}"), name)
        for choices in ("anyOf", "oneOf"):
            if choices in schema:
                return Markup(" or ").join(self._kind(choice) for choice in schema[choices])
        if "const" in schema:
            return Markup("<code>{}</code>").format(json.dumps(schema["const"]))
        if "enum" in schema:
            return Markup(", ").join(Markup("<code>{}</code>").format(value) for value in schema["enum"])
        if schema.get("type") == "array":
            limits = _limits(schema, "minItems", "maxItems", "items")
            return Markup("list of {}{}").format(self._kind(schema["items"]), limits)
        return escape(schema.get("format") or schema.get("type", "any")) + escape(_limits_of_value(schema))

    def _curl(self, path: str, method: str, operation: Json, content: Json) -> str:
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", example_of(parameter["schema"], self._schemas))
        command = "curl" if method in {"get", "post"} else f"curl -X {method.upper()}"
        command += f' "$api{path.removeprefix(_API_PREFIX)}"'
        if operation["security"]:
            command += ' -H "$auth"'
        if "multipart/form-data" in content:
            return command + _UPLOAD_ARGUMENTS
        media = content.get("application/json")
        if media is not None:
            examples = media.get("examples")
            example = next(iter(examples.values()))["value"] if examples else media["example"]
            return f"{command} \\\n  --json '{_pretty(example)}'"
        return command + (" -X POST" if method == "post" else "")


def _limits_of_value(schema: Json) -> str:
    return _limits(schema, "minLength", "maxLength", "characters") + _limits(schema, "minimum", "maximum", "")


def _limits(schema: Json, low: str, high: str, unit: str) -> str:
    if low not in schema and high not in schema:
        return ""
    if low not in schema:
        text = f"at most {schema[high]}"
    elif high not in schema:
        text = f"at least {schema[low]}"
    else:
        text = f"{schema[low]} to {schema[high]}"
    return f", {text} {unit}".rstrip()


def _prose(text: str) -> Markup:
    """Return the little markup of descriptions as HTML: paragraphs, lists of ``- ``, code in backticks."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("- ") for line in lines):
            items = Markup().join(Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines)
            parts.append(Markup("<ul>{}</ul>").format(items))
        else:
            parts.append(Markup("<p>{}</p>").format(_inline(" ".join(lines))))
    return Markup("\n").join(parts)


def _inline(text: str) -> Markup:
    escaped = str(escape(text))
    return Markup(_CODE.sub(r"<code>\1</code>", escaped))  # noqa: S704  # escaped one line above


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
