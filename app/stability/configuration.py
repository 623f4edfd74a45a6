"""From a pipelines document to pipelines: strict, and with every mistake in one error.

::

    pipelines = build_pipelines(read_document(Path("stability.toml")), profile="production")
    content = pipelines["storage_read"].call(fetch, "a-key")

:mod:`.document` explains the document, :mod:`.composition` which orders are advised.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from .composition import Member, find_cautions, find_contradictions
from .context import PolicyContext, PolicyKind
from .document import Plan, PolicyPlan, plan_document
from .errors import OptionError
from .judging import ReadyPolicy, judge_classifications, judge_defaults, judge_policy
from .outcome import Classification
from .pipeline import Pipeline
from .pipelines import Pipelines

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def build_pipelines(
    document: Mapping[str, Any],
    *,
    profile: str | None = None,
    profiles: Collection[str] | None = None,
    names: Collection[str] | None = None,
    deadline_seconds: float | None = None,
    classifications: Mapping[str, Classification] = _NOTHING,
    context: PolicyContext | None = None,
    kinds: Mapping[str, type[PolicyKind]] = _NOTHING,
) -> Pipelines:
    """Judge a document and build what it asks for.

    Every profile of the document is judged as if it were in force, but without the deadline from outside, which may
    be another one there.

    Args:
        document: As :mod:`tomllib` or :func:`.document.read_document` gives it.
        profile: Whose overrides hold; None for nobody's.
        profiles: The profiles that there are; they need no tables. None for those that the document has: when it has
            some, ``profile`` must be among them.
        names: The pipelines that the program uses: all of them must stand in the document, and no others; None for
            any.
        deadline_seconds: What every call has at most, from outside of the pipelines; finite, > 0; None when that is
            not known.
        classifications: What is a failure, by pipeline or shared policy; every error is one for those left out.
        context: What the policies get besides their name and classification: clock, bus, board.
        kinds: Classes of policies by the name that the document calls them, besides this library's and those of the
            entry-point group ``stability.policies``.

    Raises:
        OptionError: With every mistake, each naming its place in the document; or what is wrong with the arguments.
    """
    _require_arguments(profile, deadline_seconds)
    plan = plan_document(document, profile=profile, profiles=profiles, names=names)
    judged = _judge(plan, kinds, deadline_seconds)
    mistakes = judged.mistakes
    mistakes += judge_classifications(classifications, (*plan.pipelines, *plan.shared, *(names or ())))
    for other in plan.profiles:
        if other != profile:
            elsewhere = plan_document(document, profile=other, profiles=profiles, names=names)
            mistakes += _mistakes_elsewhere(other, _judge(elsewhere, kinds, None).mistakes, mistakes)
    if mistakes:
        raise OptionError(list(dict.fromkeys(mistakes)))
    contexts = _contexts(plan.pipelines, classifications, context or PolicyContext(""))
    return _build(plan.pipelines, judged.ready, contexts, judged.cautions)


@dataclass(slots=True)
class _Judged:
    ready: dict[str, ReadyPolicy] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


def _require_arguments(profile: object, deadline_seconds: object) -> None:
    mistakes = []
    if profile is not None and not isinstance(profile, str):
        mistakes.append("profile must be a text")
    if deadline_seconds is not None and not _is_time(deadline_seconds):
        mistakes.append("deadline_seconds must be a finite number above 0")
    if mistakes:
        raise OptionError(mistakes)


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= sys.float_info.max


def _judge(plan: Plan, kinds: Mapping[str, type[PolicyKind]], deadline_seconds: float | None) -> _Judged:
    judged = _Judged(mistakes=[*plan.mistakes], cautions=[*plan.cautions])
    judged.mistakes += judge_defaults(plan.default_kinds, kinds)
    for name, policies in plan.pipelines.items():
        for policy in policies:
            judged.mistakes += judge_policy(policy, kinds, judged.ready)
        members = [_member(policy, judged.ready) for policy in policies]
        judged.mistakes += [f"pipelines.{name}: {text}" for text in find_contradictions(members, deadline_seconds)]
        judged.cautions += [f"pipelines.{name}: {text}" for text in find_cautions(members)]
    judged.cautions += [f"{r.plan.place}: {text}" for r in judged.ready.values() for text in r.options.cautions()]
    return judged


def _mistakes_elsewhere(profile: str, found: Iterable[str], told: Collection[str]) -> Iterator[str]:
    """Yield the mistakes of a profile that is not in force; those that are told already are not its own."""
    for mistake in found:
        if mistake not in told:
            yield mistake if mistake.startswith("profiles.") else f"in profile {profile}: {mistake}"


def _member(plan: PolicyPlan, ready: Mapping[str, ReadyPolicy]) -> Member:
    found = ready.get(plan.place)
    return Member(plan.name, plan.kind, None if found is None else found.options)


def _build(
    plans: Mapping[str, tuple[PolicyPlan, ...]],
    ready: Mapping[str, ReadyPolicy],
    contexts: Mapping[str, PolicyContext],
    cautions: Iterable[str],
) -> Pipelines:
    built: dict[str, Any] = {}
    mistakes: list[str] = []
    for place, policy in ready.items():
        try:
            built[place] = policy.kind.build(policy.options, contexts[place])
        except OptionError as error:
            mistakes += [f"{place}: {mistake}" for mistake in error.mistakes]
        except Exception as error:  # noqa: BLE001  # a plug-in's mistake is one of the document's
            mistakes.append(f"{place}: cannot be built: {type(error).__name__}: {error}")
    if mistakes:
        raise OptionError(mistakes)
    return Pipelines(
        {name: Pipeline(name, [built[plan.place] for plan in policies]) for name, policies in plans.items()},
        {id(built[place]): policy.plan.full_name for place, policy in ready.items()},
        {name: [ready[plan.place].describe() for plan in policies] for name, policies in plans.items()},
        cautions,
    )


def _contexts(
    plans: Mapping[str, tuple[PolicyPlan, ...]],
    classifications: Mapping[str, Classification],
    context: PolicyContext,
) -> dict[str, PolicyContext]:
    """Return the surroundings of each policy by its place."""
    return {
        plan.place: replace(
            context,
            name=plan.full_name,
            classification=classifications.get(plan.name if plan.is_shared else pipeline, context.classification),
        )
        for pipeline, policies in plans.items()
        for plan in policies
    }
