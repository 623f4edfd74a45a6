"""From a pipelines document to pipelines: strict, and with every mistake in one error.

::

    pipelines = build_pipelines(read_document(Path("stability.toml")), profile="production")
    content = pipelines["storage_read"].call(fetch, "a-key")

:mod:`.document` explains the document, :mod:`.composition` which orders are advised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from .composition import Member, find_cautions, find_contradictions
from .context import PolicyContext, PolicyKind
from .document import PolicyPlan, plan_document
from .errors import OptionError
from .judging import ReadyPolicy, judge_defaults, judge_policy
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

    Args:
        document: As :mod:`tomllib` or :func:`.document.read_document` gives it.
        profile: Whose overrides hold; None for nobody's.
        profiles: The profiles that the document may have; None for any.
        names: The pipelines that the program uses: all of them must stand in the document, and no others; None for
            any.
        deadline_seconds: What every call has at most, from outside of the pipelines; None when that is not known.
        classifications: What is a failure, by pipeline or shared policy; every error is one for those left out.
        context: What the policies get besides their name and classification: clock, bus, board.
        kinds: Classes of policies by the name that the document calls them, besides this library's and those of the
            entry-point group ``stability.policies``.

    Raises:
        OptionError: With every mistake, each naming its place in the document.
    """
    plan = plan_document(document, profile=profile, profiles=profiles, names=names)
    mistakes, cautions = list(plan.mistakes), list(plan.cautions)
    mistakes += judge_defaults(plan.default_kinds, kinds)
    ready: dict[str, ReadyPolicy] = {}
    for name, policies in plan.pipelines.items():
        for policy in policies:
            mistakes += judge_policy(policy, kinds, ready)
        members = [_member(policy, ready) for policy in policies]
        mistakes += [f"pipelines.{name}: {text}" for text in find_contradictions(members, deadline_seconds)]
        cautions += [f"pipelines.{name}: {text}" for text in find_cautions(members)]
    cautions += [f"{r.plan.place}: {text}" for r in ready.values() for text in r.options.cautions()]
    if mistakes:
        raise OptionError(list(dict.fromkeys(mistakes)))
    contexts = _contexts(plan.pipelines, classifications, context or PolicyContext(""))
    return _build(plan.pipelines, ready, contexts, cautions)


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
