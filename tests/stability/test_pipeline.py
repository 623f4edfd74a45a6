"""Policies around a function: their order, what goes through them, and what types are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, assert_type

import pytest

from app.stability.call import Call, Policy, Proceed
from app.stability.pipeline import Pipeline


class Noting:
    """A policy that notes when it is entered and left."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        self.notes.append(f"+{self.name}")
        try:
            return proceed(call)
        finally:
            self.notes.append(f"-{self.name}")


class Twice:
    """A policy that calls everything behind it two times."""

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        return [proceed(call), proceed(call)]


class Never:
    """A policy that answers in the function's place."""

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:  # noqa: ARG002  # it needs neither
        return "instead"


def divide(dividend: int, divisor: int = 1, *, offset: float = 0.0) -> float:
    """Divide."""
    return dividend / divisor + offset


def test_the_first_policy_is_the_outermost() -> None:
    notes: list[str] = []
    pipeline = Pipeline("p", [Noting("a", notes), Noting("b", notes), Noting("c", notes)])

    pipeline.call(notes.append, "call")

    assert notes == ["+a", "+b", "+c", "call", "-c", "-b", "-a"]


@pytest.mark.parametrize("policies", [[], [Noting("a", [])]])
def test_arguments_and_result_go_through(policies: list[Policy]) -> None:
    pipeline = Pipeline("p", policies)

    assert pipeline.call(divide, 7, divisor=2, offset=1.0) == 4.5


def test_an_argument_may_be_named_like_a_parameter_of_the_pipeline() -> None:
    def take(**named: int) -> dict[str, int]:
        return named

    pipeline = Pipeline("p", [Noting("a", [])])

    assert pipeline.call(take, function=1, self=2, name=3) == {"function": 1, "self": 2, "name": 3}
    assert pipeline(take)(function=1, self=2, name=3) == {"function": 1, "self": 2, "name": 3}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_functions_own_error_comes_out_untouched(error: type[BaseException]) -> None:
    notes: list[str] = []
    raised = error()

    def fail() -> None:
        raise raised

    with pytest.raises(error) as caught:
        Pipeline("p", [Noting("a", notes)]).call(fail)

    assert caught.value is raised
    assert notes == ["+a", "-a"]


def test_a_policy_may_call_what_is_behind_it_several_times_or_never() -> None:
    counted: list[int] = []

    twice: Any = Pipeline("p", [Twice(), Twice()]).call(counted.append, 1)
    never: Any = Pipeline("p", [Never(), Twice()]).call(counted.append, 2)

    assert counted == [1, 1, 1, 1]
    assert twice == [[None, None], [None, None]]
    assert never == "instead"


def test_the_same_call_reaches_every_policy() -> None:
    seen: list[Call[Any]] = []

    class Looking:
        def execute(self, call: Call[Any], proceed: Proceed) -> Any:
            seen.append(call)
            return proceed(call)

    call = Call(divide, 6, 3).describe(operation="divide")

    result = Pipeline("p", [Looking(), Looking()]).run(call)

    assert result == 2.0
    assert seen == [call, call]


def test_a_decorated_function_keeps_its_name_and_is_guarded() -> None:
    notes: list[str] = []
    guarded = Pipeline("p", [Noting("a", notes)])(divide)

    result = guarded(9, divisor=3)

    assert result == 3.0
    assert notes == ["+a", "-a"]
    assert (guarded.__name__, guarded.__doc__) == ("divide", "Divide.")


def test_a_decorated_method_gets_its_object() -> None:
    pipeline = Pipeline("p", [Noting("a", [])])

    class Store:
        prefix = "photos/"

        @pipeline
        def path(self, key: str) -> str:
            return self.prefix + key

    assert Store().path("a") == "photos/a"


def test_a_policy_that_links_itself_is_asked_once_and_then_called_without_execute() -> None:
    notes: list[str] = []

    class Linked(Noting):
        def link(self, proceed: Proceed) -> Proceed:
            notes.append("linked")

            def step(call: Call[Any]) -> Any:
                notes.append(f"step {self.name}")
                return proceed(call)

            return step

    pipeline = Pipeline("p", [Noting("outer", notes), Linked("inner", notes)])
    results = [pipeline.call(divide, 4, 2), pipeline(divide)(6, 2)]

    assert results == [2.0, 3.0]
    assert notes == ["linked", *["+outer", "step inner", "-outer"] * 2]


def test_one_policy_cannot_stand_twice_in_a_pipeline() -> None:
    once = Never()

    with pytest.raises(ValueError, match=r"^the pipeline 'storage' has one and the same policy twice$"):
        Pipeline("storage", [once, Noting("a", []), once])


def test_policies_that_are_equal_and_not_the_same_may_stand_together() -> None:
    class Equal(Never):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]  # equal and unhashable, as a policy may be

    assert len(Pipeline("p", [Equal(), Equal()]).policies) == 2


def test_a_pipeline_does_not_change_with_the_list_that_it_was_made_of() -> None:
    notes: list[str] = []
    policies = [Noting("a", notes)]
    pipeline = Pipeline("p", policies)

    policies.clear()
    pipeline.call(divide, 1)

    assert notes == ["+a", "-a"]
    assert len(pipeline.policies) == 1


def test_the_outermost_policy_of_a_kind_can_be_found() -> None:
    first, second = Noting("a", []), Noting("b", [])
    pipeline = Pipeline("p", [Twice(), first, second])

    assert pipeline.find(Noting) is first
    assert pipeline.find(Never) is None


def test_a_pipeline_shows_its_name_and_what_stands_in_it() -> None:
    assert repr(Pipeline("storage", [Twice(), Never()])) == "Pipeline('storage', Twice > Never)"
    assert repr(Pipeline("bare")) == "Pipeline('bare', nothing)"


def test_calls_of_several_threads_do_not_meet() -> None:
    together = threading.Barrier(4)
    results: dict[int, float] = {}

    def meet(number: int) -> int:
        together.wait(60)
        return number

    pipeline = Pipeline("p", [Noting("a", [])])
    threads = [threading.Thread(target=lambda n=n: results.update({n: pipeline.call(meet, n)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {0: 0, 1: 1, 2: 2, 3: 3}


# The lines below are judged by the type checker: each "type: ignore" stands where it has to find a mistake, and one
# that finds none is a mistake itself (warn_unused_ignores). They run as well, as far as they can.


def test_a_call_keeps_the_types_of_arguments_and_result() -> None:
    pipeline = Pipeline("p")

    assert_type(pipeline.call(divide, 6, 3), float)
    assert_type(pipeline.call(divide, 6, divisor=3, offset=1), float)
    assert_type(pipeline.run(Call(divide, 6, 3)), float)
    text: str = pipeline.call(divide, 6)  # type: ignore[assignment]  # a float is no text
    with pytest.raises(TypeError):
        pipeline.call(divide, "6")  # type: ignore[arg-type]  # a text cannot be divided
    with pytest.raises(TypeError):
        pipeline.call(divide)  # type: ignore[call-arg]  # the dividend is missing
    with pytest.raises(TypeError):
        pipeline.call(divide, 6, divisior=3)  # type: ignore[call-arg]  # no parameter has this name
    with pytest.raises(TypeError):
        pipeline.call(divide, 6, 3, 1.0)  # type: ignore[call-arg]  # the offset goes by name

    assert text == 6.0  # type: ignore[comparison-overlap]  # the checker believes the line above


def test_a_decorator_keeps_the_types_of_arguments_and_result() -> None:
    guarded = Pipeline("p")(divide)

    assert_type(guarded(6, divisor=3), float)
    same: Callable[[int], float] = guarded
    other: Callable[[str], float] = guarded  # type: ignore[assignment]  # it takes a number
    with pytest.raises(TypeError):
        guarded("6")  # type: ignore[arg-type]  # a text cannot be divided
    with pytest.raises(TypeError):
        guarded(6, divisior=3)  # type: ignore[call-arg]  # no parameter has this name

    assert {id(same)} == {id(other)}


def test_a_found_policy_has_the_type_that_was_asked_for() -> None:
    found = Pipeline("p", [Never()]).find(Never)

    assert_type(found, Never | None)


@pytest.mark.parametrize("thing", [1, object(), Never, None])
def test_something_without_execute_is_no_policy_nor_is_a_class(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"the pipeline 'p' has .* which is no policy"):
        Pipeline("p", [thing])


@pytest.mark.parametrize("thing", [None, "fetch", 5])
def test_what_cannot_be_called_is_not_guarded(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"the pipeline 'p' guards functions, and .* cannot be called"):
        Pipeline("p")(thing)


def test_a_coroutine_function_is_refused_because_only_its_making_would_be_guarded() -> None:
    async def fetch() -> int:
        return 1

    with pytest.raises(TypeError, match="fetch is a coroutine function"):
        Pipeline("p")(fetch)
