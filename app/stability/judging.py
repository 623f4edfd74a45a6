"""Judging one policy of a document: is there such a policy, are there such options, may they have such values?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from .context import PolicyKind
from .description import PolicyDescription, describe_policy
from .document import PolicyPlan
from .errors import OptionError
from .options import Options
from .registry import find_kind, hint, known_names


@dataclass(frozen=True, slots=True)
class ReadyPolicy:
    """A policy whose options are right.

    Attributes:
        plan: What the document says of it.
        kind: Its class.
        options: Its options.
    """

    plan: PolicyPlan
    kind: type[PolicyKind]
    options: Options

    def describe(self) -> PolicyDescription:
        """Return how it will run."""
        plan = self.plan
        origins = {option: setting.place.rpartition(".")[0] for option, setting in plan.settings.items()}
        return describe_policy(plan.name, plan.kind, self.options, origins, is_shared=plan.is_shared)


def judge_defaults(default_kinds: Mapping[str, str], kinds: Mapping[str, type[PolicyKind]]) -> Iterator[str]:
    """Yield what is wrong with the names of ``[defaults.KIND]`` tables.

    Args:
        default_kinds: The place of each table by kind.
        kinds: Classes that the caller adds by name.
    """
    known = known_names(kinds) if default_kinds else ()
    for kind, place in default_kinds.items():
        if kind not in known:
            yield f"{place} is for no policy{hint(kind, known)}"


def judge_classifications(names: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the names that failures are classified for.

    Args:
        names: As the program gives them.
        known: The pipelines and the shared policies.
    """
    for name in names:
        if name not in known:
            yield f"classifications: {name!r} is no pipeline and no shared policy{hint(str(name), known)}"


def judge_policy(
    plan: PolicyPlan, kinds: Mapping[str, type[PolicyKind]], ready: dict[str, ReadyPolicy]
) -> Iterator[str]:
    """Yield what is wrong with a policy, or add it to what is ready.

    Args:
        plan: What the document says of it.
        kinds: Classes that the caller adds by name.
        ready: By place; changed.
    """
    try:
        kind = find_kind(plan.kind, kinds)
    except OptionError as error:
        more = f' (a name of its own needs kind = "…" in [{plan.place}])' if plan.kind == plan.name else ""
        yield from (f"{plan.place}: {mistake}{more}" for mistake in error.mistakes)
        return
    known = [declared.name for declared in fields(kind.Options)]
    unknown = [setting for option, setting in plan.settings.items() if option not in known]
    yield from (f"{s.place} is no option of {plan.kind}{hint(s.place.rpartition('.')[2], known)}" for s in unknown)
    values = {option: _frozen(s.value) for option, s in plan.settings.items() if option in known}
    try:
        options = kind.Options(**values)
    except OptionError as error:
        yield from (_placed(plan, mistake) for mistake in error.mistakes)
        return
    if not unknown:
        ready[plan.place] = ReadyPolicy(plan, kind, options)


def _placed(plan: PolicyPlan, mistake: str) -> str:
    """Return a mistake with the place of the value that it is about, else that of the policy."""
    option, _, rest = mistake.partition(" ")
    setting = plan.settings.get(option)
    is_about_one = rest.startswith("must be ")
    return f"{setting.place} {rest}" if setting is not None and is_about_one else f"{plan.place}: {mistake}"


def _frozen(value: Any) -> Any:
    """Return a value of a document so that shared options cannot be changed through it: arrays are tuples."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return value
