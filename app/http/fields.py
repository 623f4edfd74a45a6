"""Kinds of fields that several rooms use: clean text, instants, tags."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

_ALLOWED_CONTROLS = frozenset("\n\t")
_LINE_BREAKS = frozenset("\n\t\u2028\u2029")
# The same rules for readers of the document; what is refused is judged below, with words.
_TEXT_PATTERN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"
_NOT_IN_A_LINE = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_LINE_PATTERN = rf"^[^{_NOT_IN_A_LINE}]*[^\s{_NOT_IN_A_LINE}][^{_NOT_IN_A_LINE}]*$"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _refuse_controls(value: str) -> str:
    for character in value:
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and character not in _ALLOWED_CONTROLS):
            raise ValueError("control characters are not allowed here")
    return value


def _refuse_lines(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if any(character in _LINE_BREAKS for character in value):
        raise ValueError("must be a single line")
    return value


def _read_rfc3339(value: Any) -> Any:
    """Read text here, so that neither Unix times nor other spellings of ISO 8601 pass."""
    if not isinstance(value, str):
        return value
    if not _RFC3339.fullmatch(value):
        raise ValueError("must be an instant like 2026-05-17T09:30:00Z, with its zone")
    try:
        return dt.datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("is no instant of the calendar") from None


def _in_utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None


def rfc3339(value: dt.datetime) -> str:
    """Return an instant as the API writes it: RFC 3339, UTC, ``Z``, microseconds."""
    return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


Text = Annotated[str, AfterValidator(_refuse_controls), Field(json_schema_extra={"pattern": _TEXT_PATTERN})]
"""Any text without control characters; new lines and tabs are allowed."""

Line = Annotated[
    str,
    AfterValidator(_refuse_controls),
    AfterValidator(_refuse_lines),
    Field(json_schema_extra={"pattern": _LINE_PATTERN}),
]
"""Text on one line, not blank."""

Tag = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50, strip_whitespace=True),
    AfterValidator(_refuse_controls),
    AfterValidator(_refuse_lines),
    Field(json_schema_extra={"pattern": _LINE_PATTERN}),
]
"""1 to 50 characters on one line."""

Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_read_rfc3339),
    AfterValidator(_in_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant with its zone (RFC 3339); kept and written in UTC."""
