"""Judging one policy: its kind, its options' names, their values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.stability.document import PolicyPlan, Setting
from app.stability.judging import ReadyPolicy, judge_classifications, judge_defaults, judge_policy
from tests.fakes.policies import KINDS, AgainOptions


def plan(kind: str = "retry", name: str = "retry", **values: Any) -> PolicyPlan:
    settings = {option: Setting(value, f"pipelines.read.{name}.{option}") for option, value in values.items()}
    return PolicyPlan(name, kind, f"pipelines.read.{name}", "read", is_shared=False, settings=settings)


def judge(wanted: PolicyPlan) -> tuple[list[str], dict[str, ReadyPolicy]]:
    ready: dict[str, ReadyPolicy] = {}
    return list(judge_policy(wanted, KINDS, ready)), ready


def test_a_right_policy_is_ready_and_says_where_its_values_are_from() -> None:
    wanted = plan(max_attempts=2)

    mistakes, ready = judge(wanted)

    assert mistakes == []
    assert ready == {wanted.place: ReadyPolicy(wanted, KINDS["retry"], AgainOptions(max_attempts=2))}
    described = ready[wanted.place].describe()
    assert (described.name, described.kind, described.is_shared) == ("retry", "retry", False)
    assert [option.origin for option in described.options][:2] == ["pipelines.read.retry", "default"]


def test_a_shared_policy_with_a_name_of_its_own_is_described_as_one() -> None:
    described = ReadyPolicy(
        replace(plan("retry", "again"), is_shared=True), KINDS["retry"], AgainOptions()
    ).describe()

    assert (described.name, described.kind, described.is_shared) == ("again", "retry", True)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (plan(max_atempts=2), "pipelines.read.retry.max_atempts is no option of retry; did you mean 'max_attempts'?"),
        (plan(max_attempts="2"), "pipelines.read.retry.max_attempts must be a whole number"),
        (plan(base_seconds=50), "pipelines.read.retry: base_seconds must not exceed cap_seconds"),
        (plan("retyr", "again"), "pipelines.read.again: there is no policy 'retyr'; did you mean 'retry'?"),
    ],
)
def test_a_wrong_policy_is_told_with_its_place_and_not_ready(wanted: PolicyPlan, says: str) -> None:
    assert judge(wanted) == ([says], {})


def test_wrong_names_and_wrong_values_are_told_together() -> None:
    mistakes, ready = judge(plan(max_atempts=2, jitter="some", base_seconds=-1))

    assert len(mistakes) == 3
    assert ready == {}


def test_a_name_of_its_own_without_kind_is_told_what_it_needs() -> None:
    mistakes, _ = judge(plan("attempt_timeout", "attempt_timeout"))

    assert mistakes[0].endswith('(a name of its own needs kind = "…" in [pipelines.read.attempt_timeout])')


def test_arrays_and_tables_of_a_document_cannot_be_changed_afterwards() -> None:
    inner = {"b": [2]}

    _, ready = judge(plan(statuses=[1, inner]))
    inner["b"].append(3)

    ((ready_policy),) = ready.values()
    assert getattr(ready_policy.options, "statuses") == (1, {"b": (2,)})  # noqa: B009  # of a subclass


def test_defaults_may_be_for_known_policies_only() -> None:
    found = list(judge_defaults({"retry": "defaults.retry", "rety": "profiles.production.defaults.rety"}, KINDS))

    assert list(judge_defaults({"own": "defaults.own"}, KINDS | {"own": KINDS["retry"]})) == []
    assert found == ["profiles.production.defaults.rety is for no policy; did you mean 'retry'?"]


def test_a_classification_of_nothing_is_told_what_it_may_mean() -> None:
    found = list(judge_classifications(["read", "raed"], ("read", "places")))

    assert found == ["classifications: 'raed' is no pipeline and no shared policy; did you mean 'read'?"]
