"""Pipelines by name."""

from __future__ import annotations

from app.stability import Call, Pipeline, PolicyContext
from app.stability.description import PipelineDescription, describe_policy
from app.stability.pipelines import Pipelines
from tests.fakes.policies import Again, Recorder


class _Silent:
    """A policy that counts nothing."""

    def execute(self, call: Call[int], proceed: object) -> object:
        raise NotImplementedError  # it is described here, never run


def test_they_are_a_mapping_in_order() -> None:
    described = describe_policy("retry", "retry", Again.Options(), {})

    pipelines = Pipelines(
        {"write": Pipeline("write"), "read": Pipeline("read")}, {}, {"write": (), "read": [described]}
    )

    assert list(pipelines) == ["write", "read"]
    assert len(pipelines) == 2
    assert pipelines["read"].name == "read"
    assert pipelines.described == (PipelineDescription("write", ()), PipelineDescription("read", (described,)))


def test_a_shared_policy_is_found_and_counted_once() -> None:
    shared, own, silent = (
        Recorder(Recorder.Options(), PolicyContext("both")),
        Again.build(Again.Options(), PolicyContext("read")),
        _Silent(),
    )
    made = {"read": Pipeline("read", [own, shared]), "write": Pipeline("write", [shared, silent])}
    names = {id(shared): "both", id(own): "read", id(silent): "write"}

    pipelines = Pipelines(made, names, {}, ["mind this"])

    assert pipelines.find_all(Recorder) == {"read": own, "both": shared}
    assert pipelines.find_all(Again) == {"read": own}
    assert [figure.labels["name"] for figure in pipelines.figures()] == ["read", "both"]
    assert pipelines.cautions == ("mind this",)
