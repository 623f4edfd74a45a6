"""The table of settings for people and scripts: what may stand where, what stands there, and where from.

Secrets are masked; of a database URL the driver, host and name stay visible.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr

from app.settings import (
    PROFILES,
    LoadedSettings,
    Settings,
    allowed_of,
    field_of,
    is_secret,
    known_settings,
    unit_of,
)
from app.settings_forms import MASK, mask_database_url
from app.settings_sources import PROFILE_VARIABLE, variable_of

NOT_SET = "(not set)"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    Attributes:
        variable: Its environment variable.
        section: Its table in a profile file; empty for the profile itself.
        allowed: What may stand there, with unit and range.
        unit: What a number counts; empty otherwise.
        default: The default as it would be written.
        secret: Whether its value is masked and may be given as ``…_FILE``.
        meaning: One line for people.
        value: The value now; empty in the documentation.
        origin: Where the value comes from; empty in the documentation.
    """

    variable: str
    section: str
    allowed: str
    unit: str
    default: str
    secret: bool
    meaning: str
    value: str = ""
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row for a script."""
        return asdict(self)


def build_rows(loaded: LoadedSettings | None = None) -> tuple[Row, ...]:
    """Return a row per setting in the order of the models.

    Args:
        loaded: Adds values and origins; default: only what the models say.
    """
    profile = "" if loaded is None else loaded.settings.profile
    rows = [
        Row(
            variable=PROFILE_VARIABLE,
            section="",
            allowed=f"one of {', '.join(PROFILES)}",
            unit="",
            default=PROFILES[0],
            secret=False,
            meaning=str(Settings.model_fields["profile"].description),
            value=profile,
            origin="" if loaded is None else loaded.profile_origin,
        )
    ]
    for section, name in known_settings().names:
        value = "" if loaded is None else _shown((section, name), getattr(getattr(loaded.settings, section), name))
        rows.append(
            Row(
                variable=variable_of(section, name),
                section=section,
                allowed=allowed_of(section, name),
                unit=unit_of(section, name),
                default=_shown((section, name), field_of(section, name).default),
                secret=is_secret(section, name),
                meaning=str(field_of(section, name).description),
                value=value,
                origin="" if loaded is None else loaded.origins.get((section, name), "default"),
            )
        )
    return tuple(rows)


def format_text(rows: Iterable[Row]) -> str:
    """Return rows as a table for a terminal: variable, value, origin, default, allowed."""
    lines = [("SETTING", "VALUE", "FROM", "DEFAULT", "ALLOWED")]
    lines += [(row.variable, row.value, row.origin, row.default, row.allowed) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]])
        for line in lines
    )


def format_markdown(rows: Iterable[Row]) -> str:
    """Return rows as one Markdown table per section, without values."""
    lines: list[str] = []
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            title = f"`[{section}]`" if section else "Profile"
            lines += ["", f"### {title}", "", "| Variable | Meaning | Allowed | Default |", "|---|---|---|---|"]
        secret = " Secret: also as `…_FILE`." if row.secret else ""
        default = row.default if row.default == NOT_SET else f"`{row.default}`"
        lines.append(
            f"| `{row.variable}` | {_cell(row.meaning)}.{secret} | {_cell(row.allowed)} | {_cell(default)} |"
        )
    return "\n".join(lines[1:]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(key: tuple[str, str], value: Any) -> str:
    """Return a value as it would be written, masked when it is secret."""
    if isinstance(value, SecretStr):
        return mask_database_url(value.get_secret_value()) if key == ("database", "url") else MASK
    if isinstance(value, tuple):
        return ",".join(value) or ("none" if allowed_of(*key).endswith("or none") else NOT_SET)
    if isinstance(value, float):
        return f"{value:g}"
    return NOT_SET if value is None else str(value)
