"""Pipelines as they will run, for people and scripts: every policy, every option, its value and where it is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .options import Options, rule_of

DEFAULT = "default"
"""The origin of a value that the document does not give."""


@dataclass(frozen=True, slots=True)
class OptionDescription:
    """One option.

    Attributes:
        name: Of the option.
        value: As the document would write it.
        unit: What a number counts; empty for a ratio or a name.
        origin: The table that gives the value, or ``default``.
        allowed: What may stand there; empty for anything.
        meaning: One line.
    """

    name: str
    value: str
    unit: str
    origin: str
    allowed: str
    meaning: str


@dataclass(frozen=True, slots=True)
class PolicyDescription:
    """One policy.

    Attributes:
        name: By which the pipeline names it.
        kind: What it is.
        is_shared: Whether other pipelines pass through the same one.
        options: In the order of its class.
    """

    name: str
    kind: str
    is_shared: bool
    options: tuple[OptionDescription, ...]


@dataclass(frozen=True, slots=True)
class PipelineDescription:
    """One pipeline.

    Attributes:
        name: Of the pipeline.
        policies: Outermost first.
    """

    name: str
    policies: tuple[PolicyDescription, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for a script."""
        return asdict(self)


def describe_policy(
    name: str, kind: str, options: Options, origins: Mapping[str, str], *, is_shared: bool = False
) -> PolicyDescription:
    """Describe one policy.

    Args:
        name: By which the pipeline names it.
        kind: What it is.
        options: Its options.
        origins: The table that gives an option, by option; those left out have their default.
        is_shared: Whether other pipelines pass through the same one.
    """
    described = []
    for declared in fields(options):
        rule = rule_of(declared)
        value = written(getattr(options, declared.name))
        origin = origins.get(declared.name, DEFAULT)
        described.append(OptionDescription(declared.name, value, rule.unit, origin, rule.allowed, rule.meaning))
    return PolicyDescription(name, kind, is_shared, tuple(described))


def format_pipelines(pipelines: Iterable[PipelineDescription]) -> str:
    """Return pipelines for a terminal: the order of each, then its options in columns."""
    pipelines = tuple(pipelines)
    rows = [
        (option.name, _with_unit(option), option.origin)
        for pipeline in pipelines
        for policy in pipeline.policies
        for option in policy.options
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines: list[str] = []
    for pipeline in pipelines:
        lines += ["", f"{pipeline.name}: {' > '.join(policy.name for policy in pipeline.policies) or 'no policies'}"]
        for policy in pipeline.policies:
            lines.append(f"  {_title(policy)}")
            for option in policy.options:
                value = _with_unit(option)
                lines.append(f"    {option.name:<{widths[0]}}  {value:<{widths[1]}}  {option.origin}")
    return "\n".join(lines[1:])


def written(value: Any) -> str:
    """Return a value as a document would write it; a function by its name."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        items = value if isinstance(value, list | tuple) else sorted(value)
        return f"[{', '.join(written(item) for item in items)}]"
    return str(getattr(value, "__qualname__", value))


def _with_unit(option: OptionDescription) -> str:
    is_one = option.value == "1" and option.unit.isalpha()
    return f"{option.value} {option.unit.removesuffix('s') if is_one else option.unit}".rstrip()


def _title(policy: PolicyDescription) -> str:
    facts = [policy.kind] if policy.kind != policy.name else []
    facts += ["shared"] if policy.is_shared else []
    return f"{policy.name} ({', '.join(facts)})" if facts else policy.name
