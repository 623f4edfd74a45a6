"""Where settings come from: the environment, ``.env``, secret files and ``config/<profile>.toml``.

Reads every source into a :class:`Layer` of raw values and notes every mistake about *names* and *files*;
values are judged by the models in ``settings``. No message repeats a value, nor a line of a file: what
stands in the wrong place may be a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

PREFIX = "PHOTO_API_"
PROFILE_VARIABLE = "PHOTO_API_PROFILE"
ENVIRONMENT = "environment"
ENV_FILE = ".env"

_LOOKS_LIKE_OURS = re.compile(r"PHOTO[-_.]?API", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_.-]*")
_MAX_NAME_CHARACTERS = 60
_FILE_SUFFIX = "_FILE"
_MAX_SECRET_FILE_BYTES = 65_536
_CLOSE_ENOUGH = 0.72
_MIN_BEGINNING = 3  # as in dev, prod, warn


@dataclass(frozen=True, slots=True)
class KnownSettings:
    """The names that exist.

    Attributes:
        names: Every setting as ``(section, name)``, in the order of the models.
        secrets: Those that may also be given as ``…_FILE``.
    """

    names: tuple[tuple[str, str], ...]
    secrets: frozenset[tuple[str, str]]

    def sections(self) -> tuple[str, ...]:
        """Return the section names in order."""
        return tuple(dict.fromkeys(section for section, _ in self.names))

    def of_section(self, section: str) -> tuple[str, ...]:
        """Return the names of the settings in one section."""
        return tuple(name for its_section, name in self.names if its_section == section)


@dataclass(slots=True)
class Layer:
    """What one source says.

    Attributes:
        origin: The source's name for messages and tables.
        values: Raw values by ``(section, name)``.
        origins: A finer origin for single values (secret files); :attr:`origin` otherwise.
        mistakes: Mistakes about names and files.
        profile: The profile, when this source names one.
    """

    origin: str
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    profile: str | None = None

    def nested(self) -> dict[str, dict[str, Any]]:
        """Return the values as one mapping per section."""
        sections: dict[str, dict[str, Any]] = {}
        for (section, name), value in self.values.items():
            sections.setdefault(section, {})[name] = value
        return sections


def variable_of(section: str, name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{section}__{name}".upper()


def did_you_mean(text: str, candidates: Iterable[str]) -> str | None:
    """Return the closest candidate or the only one with this beginning, case aside; None when none is close."""
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    begun = [folded for folded in by_folded if len(text) >= _MIN_BEGINNING and folded.startswith(text.lower())]
    close = begun if len(begun) == 1 else get_close_matches(text.lower(), by_folded, n=1, cutoff=_CLOSE_ENOUGH)
    return by_folded[close[0]] if close else None


def read_environment(environ: Mapping[str, str], known: KnownSettings, folder: Path) -> Layer:
    """Read the variables whose names begin like ours; all others belong to somebody else."""
    layer = Layer(ENVIRONMENT)
    _add_variables(
        layer, {name: text for name, text in environ.items() if _LOOKS_LIKE_OURS.match(name)}, known, folder
    )
    return layer


def read_env_file(path: Path, known: KnownSettings, folder: Path) -> Layer:
    """Read a ``.env`` file; nothing is expanded in it, so a ``$`` in a secret stays a ``$``.

    Lines whose names do not begin like ours are left to other programs. A file that is not there is empty.
    """
    layer = Layer(ENV_FILE)
    variables: dict[str, str] = {}
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return layer
    except (OSError, UnicodeDecodeError):
        layer.mistakes.append(f"{ENV_FILE}: cannot be read as a UTF-8 text file")
        return layer
    for binding in bindings:
        line = binding.original.line
        if binding.error or (binding.key is not None and binding.value is None):
            layer.mistakes.append(f"{ENV_FILE} line {line}: must be NAME=value, a comment or empty")
        elif binding.key is not None and _LOOKS_LIKE_OURS.match(binding.key):
            if binding.key in lines:
                layer.mistakes.append(
                    f"{printable(binding.key)} ({ENV_FILE}): given twice, in lines {lines[binding.key]} and {line}"
                )
            lines[binding.key] = line
            variables[binding.key] = binding.value or ""
    _add_variables(layer, variables, known, folder)
    return layer


def read_profile_file(path: Path, known: KnownSettings, folder: Path) -> Layer:
    """Read ``config/<profile>.toml``: one table per section."""
    layer = Layer(f"config/{path.name}")
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        layer.mistakes.append(f"{layer.origin}: the file is missing")
        return layer
    except tomllib.TOMLDecodeError as error:
        # Only the position: the rest of the parser's message may hold what stands there.
        position = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        layer.mistakes.append(f"{layer.origin}: is no valid TOML{' at ' + position[1] if position else ''}")
        return layer
    except (OSError, UnicodeDecodeError):
        layer.mistakes.append(f"{layer.origin}: cannot be read as a UTF-8 text file")
        return layer
    for section, table in tables.items():
        if section not in known.sections():
            layer.mistakes.append(
                f"{layer.origin}: [{printable(section)}] is no section{_hint(section, known.sections())}"
            )
        elif not isinstance(table, dict):
            layer.mistakes.append(f"{layer.origin}: {section} must be a table, written [{section}]")
        else:
            _add_table(layer, section, table, known, folder)
    return layer


def _add_variables(layer: Layer, variables: Mapping[str, str], known: KnownSettings, folder: Path) -> None:
    """Sort variables into a layer, or note what is wrong with their names."""
    by_variable = {variable_of(*key): key for key in known.names}
    by_file_variable = {variable_of(*key) + _FILE_SUFFIX: key for key in known.names if key in known.secrets}
    for variable, text in variables.items():
        shown = f"{printable(variable)} ({layer.origin})"
        if variable not in by_variable and variable not in by_file_variable and variable != PROFILE_VARIABLE:
            candidates = [*by_variable, *by_file_variable, PROFILE_VARIABLE]
            layer.mistakes.append(f"{shown}: no such setting{_variable_hint(variable, candidates, known)}")
        elif not text.strip():
            layer.mistakes.append(f"{shown}: is empty; give a value or remove the variable")
        elif variable == PROFILE_VARIABLE:
            layer.profile = text
        elif variable in by_variable:
            _add_value(layer, by_variable[variable], text, variable)
        else:
            _add_secret_file(layer, by_file_variable[variable], text, variable, folder)


def _add_table(layer: Layer, section: str, table: Mapping[str, Any], known: KnownSettings, folder: Path) -> None:
    """Sort one table of a profile file into a layer."""
    names = known.of_section(section)
    file_names = {f"{name}{_FILE_SUFFIX}".lower(): name for name in names if (section, name) in known.secrets}
    for name, value in table.items():
        shown = f"[{section}] {printable(name)}"
        if name in names:
            _add_value(layer, (section, name), value, f"{shown} ({layer.origin})")
        elif name in file_names and isinstance(value, str):
            _add_secret_file(layer, (section, file_names[name]), value, shown, folder)
        else:
            hint = _hint(name, (*names, *file_names))
            layer.mistakes.append(f"{layer.origin}: {shown} is no setting{hint}")


def _add_value(layer: Layer, key: tuple[str, str], value: Any, shown: str) -> None:
    """Take a value; the same setting from a secret file of the same source contradicts it."""
    if key in layer.values:
        layer.mistakes.append(f"{shown}: give the value or the {_FILE_SUFFIX} form, not both")
        return
    layer.values[key] = value


def _add_secret_file(layer: Layer, key: tuple[str, str], text: str, shown: str, folder: Path) -> None:
    """Read a secret's file; a line end at its end does not belong to the secret."""
    try:
        with (folder / text).open("rb") as file:
            content = file.read(_MAX_SECRET_FILE_BYTES + 1)
        secret = content.decode("utf-8").rstrip("\r\n")
        problem = None if secret.strip() else "is empty"
        if len(content) > _MAX_SECRET_FILE_BYTES:
            problem = f"is larger than {_MAX_SECRET_FILE_BYTES} bytes"
    except FileNotFoundError:
        problem = "does not exist"
    except UnicodeDecodeError:
        problem = "is no UTF-8 text"
    except (OSError, ValueError):
        problem = "cannot be read"
    if problem:
        layer.mistakes.append(f"{shown} ({layer.origin}): the file that it names {problem}")
        return
    _add_value(layer, key, secret, f"{shown} ({layer.origin})")
    layer.origins[key] = f"{layer.origin}, by {shown}"


def _variable_hint(variable: str, candidates: list[str], known: KnownSettings) -> str:
    """Return did-you-mean for a variable, else what its section holds, else the sections."""
    rest = _LOOKS_LIKE_OURS.sub("", variable, count=1).lstrip("_-.").upper()
    section, _, name = rest.partition("__")
    if name.endswith(_FILE_SUFFIX) and variable.removesuffix(_FILE_SUFFIX) in candidates:
        return f"; only secrets may be given as …{_FILE_SUFFIX}"
    # The common prefix would make everything look alike.
    meant = did_you_mean(rest, [candidate.removeprefix(PREFIX) for candidate in candidates])
    same_name = [key for key in known.names if key[1].upper() == rest]  # the section was left out
    if not meant and len(same_name) == 1:
        meant = variable_of(*same_name[0]).removeprefix(PREFIX)
    if meant:
        return f"; did you mean {PREFIX}{meant}?"
    if section.lower() in known.sections():
        return f"; {PREFIX}{section}__ has {', '.join(known.of_section(section.lower())).upper()}"
    return f"; the sections are {', '.join(known.sections()).upper()}"


def _hint(text: str, candidates: Iterable[str]) -> str:
    meant = did_you_mean(text, candidates)
    return f"; did you mean {meant}?" if meant else f"; there are {', '.join(candidates)}"


def printable(name: str) -> str:
    """Return the part of a name that can be a name, at most 60 characters of it.

    What follows the first other character may be a value: ``JWT_SECRET:c2VjcmV0=`` is a name to a parser.
    """
    shown = _NAME.match(name)[0][:_MAX_NAME_CHARACTERS]  # type: ignore[index]  # it matches the empty string too
    return shown if shown == name else f"{shown}…"
