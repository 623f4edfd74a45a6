"""Fields that several rooms use: clean text, instants, tags, against naughty strings."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.http.fields import Instant, Line, Tag, Text, rfc3339

TEXT: TypeAdapter[str] = TypeAdapter(Text)
LINE: TypeAdapter[str] = TypeAdapter(Line)
TAG: TypeAdapter[str] = TypeAdapter(Tag)
INSTANT: TypeAdapter[dt.datetime] = TypeAdapter(Instant)
CONTROLS = [chr(code) for code in (*range(32), *range(0x7F, 0xA0))]
HARMLESS = [
    "Ω≈ç√∫", "田中さん", "ÅÍÎÏ˝", "👩‍👩‍👧‍👦", "הָיְתָה", "مُنَاقَشَةُ", "Z̮̞̠͙͔ͅ",
    "<script>alert(1)</script>", "'; DROP TABLE photos;--",
    "../../etc/passwd", "${jndi:ldap://127.0.0.1/a}", "%s%n%x", "NULL", "-1", "\U0001d571",
    "\u202etfel ot thgir", "\ufeffbom",
]  # fmt: skip


def accepts(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("text", HARMLESS)
def test_any_script_and_any_joke_is_text_and_stays_as_it_is(text: str) -> None:
    assert TEXT.validate_python(text) == text
    assert LINE.validate_python(text) == text
    assert TAG.validate_python(text) == text


@pytest.mark.parametrize("control", CONTROLS, ids=repr)
def test_control_characters_are_refused_but_new_line_and_tab_in_text(control: str) -> None:
    assert accepts(TEXT, f"a{control}b") == (control in "\n\t")
    assert not accepts(LINE, f"a{control}b")
    assert not accepts(TAG, f"a{control}b")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"], ids=ascii)
def test_half_a_character_is_refused(text: str) -> None:
    assert not accepts(TEXT, text)
    assert not accepts(LINE, text)


@pytest.mark.parametrize("text", ["", " ", "\u3000\u00a0", "a\u2028b", "a\u2029b"], ids=ascii)
def test_a_line_is_neither_blank_nor_several(text: str) -> None:
    assert not accepts(LINE, text)
    assert not accepts(TAG, text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_pattern_in_the_document_refuses_what_is_refused(text: str) -> None:
    for adapter in (TEXT, LINE):
        pattern = adapter.json_schema()["pattern"].removesuffix("$") + r"\Z"

        assert bool(re.search(pattern, text)) == accepts(adapter, text)


def test_a_tag_is_counted_without_the_space_around_it() -> None:
    assert TAG.validate_python(f"  {'x' * 50}  ") == "x" * 50
    assert not accepts(TAG, "x" * 51)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-05-17T09:30:00Z", "2026-05-17T09:30:00.000000Z"),
        ("2026-05-17t09:30:00z", "2026-05-17T09:30:00.000000Z"),
        ("2026-05-17T09:30:00.123456789Z", "2026-05-17T09:30:00.123456Z"),
        ("2026-05-17T09:30:00.5+02:00", "2026-05-17T07:30:00.500000Z"),
        ("2026-05-17T00:30:00+14:00", "2026-05-16T10:30:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_an_instant_is_read_with_its_zone_and_written_in_utc(text: str, instant: str) -> None:
    read = INSTANT.validate_python(text)

    assert read.tzinfo is dt.UTC
    assert rfc3339(read) == instant
    assert INSTANT.dump_json(read) == f'"{instant}"'.encode()


@pytest.mark.parametrize(
    "value",
    [
        "2026-05-17T09:30:00", "2026-05-17", "2026-05-17 09:30:00Z", "20260517T093000Z", "2026-W20-7T09:30:00Z",
        "1779010200", "0", "1e9", "2026-05-17T09:30Z", "2026-02-30T00:00:00Z", "2026-05-17T24:00:01Z",
        "2026-05-17T09:30:00+0200", "2026-05-17T09:30:00+24:00", "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00", "\uff12026-05-17T09:30:00Z", "2026-05-17T09:30:00Z\n", "", "now", "null",
        dt.datetime(2026, 5, 17, 9, 30),  # noqa: DTZ001  # naive is the point
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_instant_of_rfc_3339_is_refused(value: object) -> None:
    assert not accepts(INSTANT, value)
