"""Pipelines by name, as a configuration made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from .description import PipelineDescription, PolicyDescription
from .figures import Distribution, Figure, Measured
from .pipeline import Pipeline

PolicyT = TypeVar("PolicyT")


class Pipelines(Mapping[str, Pipeline]):
    """Pipelines by name, in the order of the document. Immutable, thread-safe.

    Args:
        pipelines: By name.
        names: The name of each policy, by the policy's :func:`id`, in the order of the document.
        policies: How the policies of each pipeline were made.
        cautions: What works and is probably not meant, one sentence each.

    Attributes:
        described: How each pipeline will run.
        cautions: As given.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        names: Mapping[int, str],
        policies: Mapping[str, Iterable[PolicyDescription]],
        cautions: Iterable[str] = (),
    ) -> None:
        self._pipelines = dict(pipelines)
        distinct = {id(policy): policy for pipeline in self._pipelines.values() for policy in pipeline.policies}
        self._policies = tuple((names[identity], policy) for identity, policy in distinct.items())
        self.described = tuple(PipelineDescription(name, tuple(made)) for name, made in policies.items())
        self.cautions = tuple(cautions)

    def __getitem__(self, name: str) -> Pipeline:
        return self._pipelines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pipelines)

    def __len__(self) -> int:
        return len(self._pipelines)

    def find_all(self, kind: type[PolicyT]) -> dict[str, PolicyT]:
        """Return every policy of a class by its name: the pipeline's, or its own for one that has its own."""
        return {name: policy for name, policy in self._policies if isinstance(policy, kind)}

    def figures(self) -> Iterator[Figure | Distribution]:
        """Yield everything that the policies have counted so far; a shared policy counts once."""
        for _, policy in self._policies:
            if isinstance(policy, Measured):
                yield from policy.figures()
