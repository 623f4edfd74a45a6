"""Figures are plain values, and whoever counts is found by what it can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from app.stability.figures import Counts, Distribution, Figure, Measured


def test_a_figure_without_labels_has_none_and_shares_them_with_nobody() -> None:
    first, second = Figure("shed", "counter", 1), Figure("shed", "counter", 1)

    assert first == second
    assert first.labels == {}
    assert first.labels is not second.labels


def test_a_distribution_without_labels_has_none_and_shares_them_with_nobody() -> None:
    first = Distribution("duration_seconds", (0.1, 1.0), (3, 2, 1), 4.5)
    second = Distribution("duration_seconds", (0.1, 1.0), (3, 2, 1), 4.5)

    assert first == second
    assert len(first.counts) == len(first.bounds) + 1
    assert first.labels == {}
    assert first.labels is not second.labels


def test_a_figure_cannot_be_changed() -> None:
    figure = Figure("shed", "gauge", 1, {"name": "storage"})

    with pytest.raises(dataclasses.FrozenInstanceError):
        figure.value = 2  # type: ignore[misc]  # what is tested

    assert figure.labels == {"name": "storage"}


def test_a_policy_that_counts_is_told_from_one_that_does_not() -> None:
    class Counting:
        def figures(self) -> Iterable[Figure | Distribution]:
            return [Figure("shed", "counter", 1)]

    counting: object = Counting()

    assert isinstance(counting, Measured)
    assert [figure.metric for figure in counting.figures()] == ["shed"]
    assert not isinstance(object(), Measured)


def test_words_that_never_came_up_are_counted_too() -> None:
    counts = Counts("shed", "storage", "reason", ("full", "late"))

    counts.add("late")
    counts.add("late")

    assert list(counts.figures()) == [
        Figure("shed", "counter", 0, {"name": "storage", "reason": "full"}),
        Figure("shed", "counter", 2, {"name": "storage", "reason": "late"}),
    ]
