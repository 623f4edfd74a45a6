"""docs/configuration.md and the models say the same, both ways."""

from __future__ import annotations

import re
from pathlib import Path

from app.settings import allowed_of, field_of, known_settings, unit_of
from app.settings_sources import PROFILE_VARIABLE, variable_of
from app.settings_table import build_rows, format_markdown

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
UNITS = {"seconds": "seconds", "bytes": "bytes", "days": "days"}


def test_the_printed_reference_stands_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    table = text.split("<!-- settings: begin -->\n")[1].split("<!-- settings: end -->")[0]

    assert table == format_markdown(build_rows()), "paste what `python -m app settings --markdown` prints"


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    existing = {PROFILE_VARIABLE, *(variable_of(*key) for key in known_settings().names)}

    rows = re.findall(r"^\| `(PHOTO_API_[A-Z0-9_]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(rows) == sorted(existing)


def test_every_setting_that_the_text_mentions_exists() -> None:
    existing = {PROFILE_VARIABLE, *(variable_of(*key) for key in known_settings().names)}
    existing |= {f"{variable_of(*key)}_FILE" for key in known_settings().secrets}
    existing.add("PHOTO_API_SERVER__WORKER")  # the example of a mistake

    mentioned = set(re.findall(r"PHOTO_API_[A-Z0-9_]+[A-Z0-9]\b", DOCUMENT.read_text(encoding="utf-8")))

    assert mentioned - existing == set()


def test_every_setting_has_a_meaning_and_says_what_is_allowed() -> None:
    lacking = [key for key in known_settings().names if not (field_of(*key).description and allowed_of(*key))]

    assert lacking == []


def test_the_end_of_a_name_is_its_unit() -> None:
    wrong = [
        key
        for key in known_settings().names
        if (unit := UNITS.get(key[1].rpartition("_")[2])) is not None and unit_of(*key) != unit
    ]

    assert wrong == []
