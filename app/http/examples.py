"""Examples from schemas: what a field says of itself, or else the plainest value that its schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_REF = "#/components/schemas/"
_BY_FORMAT = {
    "uuid": "019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21",
    "date-time": "2026-05-17T09:30:00Z",
    "binary": "(the photo's bytes)",
}
_BY_TYPE: dict[str, Any] = {"string": "text", "integer": 1, "number": 1.0, "boolean": False, "null": None}


def resolve(schema: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """Return a schema itself, or the component that it refers to."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].removeprefix(_REF)]
    return schema


def example_of(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    """Return a value that fits a schema.

    Args:
        schema: An object of JSON Schema, as pydantic writes them.
        schemas: The components that it may refer to.
    """
    schema = resolve(schema, schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if schema.get("default") is not None:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return example_of(schema[choices][0], schemas)
    return _example_of_type(schema, schemas)


def _example_of_type(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    match schema.get("type"):
        case "object":
            return {name: example_of(member, schemas) for name, member in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema["items"], schemas)]
        case "string" if schema.get("format") in _BY_FORMAT:
            return _BY_FORMAT[schema["format"]]
        case kind:
            return _BY_TYPE.get(str(kind))


def examples_of(schema: Schema, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """Return one example of each variant of a schema, by the name of the variant.

    A schema without variants has one example, named ``example``.
    """
    resolved = resolve(schema, schemas)
    mapping = resolved.get("discriminator", {}).get("mapping")
    if not mapping:
        return {"example": example_of(schema, schemas)}
    return {name: example_of({"$ref": ref}, schemas) for name, ref in mapping.items()}
