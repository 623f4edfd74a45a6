"""What a policy is built from, and what makes a class one that a file can name."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest

from app.stability.call import Call, Proceed
from app.stability.clock import SYSTEM_CLOCK
from app.stability.context import PolicyContext, PolicyKind
from app.stability.options import Options, option
from app.stability.outcome import EVERY_ERROR_FAILS
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock


@dataclass(frozen=True, kw_only=True)
class GreetingOptions(Options):
    """What to say."""

    word: str = option("hello", "Stands before the result")


class Greeting:
    """A policy as a third party may write it."""

    Options: ClassVar = GreetingOptions

    def __init__(self, name: str, options: GreetingOptions, chance: float) -> None:
        self.name = name
        self.options = options
        self.chance = chance

    @classmethod
    def build(cls, options: GreetingOptions, context: PolicyContext) -> Self:
        return cls(context.name, options, context.random.random())

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        return f"{self.options.word} {proceed(call)}"


def test_surroundings_are_those_of_a_process_on_its_own_until_something_else_is_given() -> None:
    context = PolicyContext("storage")

    assert context.classification is EVERY_ERROR_FAILS
    assert context.clock is SYSTEM_CLOCK
    assert context.board is None
    assert isinstance(context.random, random.SystemRandom)


def test_two_contexts_share_neither_bus_nor_chance() -> None:
    first, second = PolicyContext("a"), PolicyContext("a")

    assert first.bus is not second.bus
    assert first.random is not second.random


def test_a_context_cannot_be_changed() -> None:
    context = PolicyContext("storage", clock=HandClock())

    with pytest.raises(dataclasses.FrozenInstanceError):
        context.name = "other"  # type: ignore[misc]  # what is tested


def test_a_class_with_options_and_build_is_a_kind_of_policy() -> None:
    kind: type[PolicyKind] = Greeting
    context = PolicyContext("greeter", random=random.Random(1))

    policy = kind.build(kind.Options(), context)

    assert Pipeline("p", [policy]).call(str.upper, "you") == "hello YOU"
    assert isinstance(policy, Greeting)
    assert (policy.name, policy.chance) == ("greeter", random.Random(1).random())
