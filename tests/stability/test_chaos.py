"""Chaos: acts only where it is allowed, for a time, and by a sequence that can be had again."""

from __future__ import annotations

import logging
import random
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.stability
from app.stability import chaos as module
from app.stability.call import Call
from app.stability.chaos import Chaos, ChaosInjected, ChaosOptions
from app.stability.configuration import build_pipelines
from app.stability.context import PolicyContext
from app.stability.deadline import Deadline, DeadlineExceededError, deadline_scope
from app.stability.errors import InjectedFaultError, OptionError
from app.stability.events import Event, EventBus
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT

ALWAYS_FAULT = ChaosOptions(fault_rate=1.0)
ALWAYS_LATE = ChaosOptions(latency_rate=1.0, latency_seconds=2.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def run(policy: Chaos) -> Any:
    return Pipeline("photos", [policy]).call(lambda: "real")


def seen(policy: Chaos) -> str:
    """Return what becomes of a call."""
    try:
        return str(run(policy))
    except InjectedFaultError:
        return "fault"


def counts(policy: Chaos) -> dict[str, float]:
    return {f.labels["kind"]: f.value for f in policy.figures() if f.metric == "chaos_injected"}


def test_without_permission_every_call_passes_and_nothing_is_on_its_way(caplog: pytest.LogCaptureFixture) -> None:
    policy = Chaos("photos", ALWAYS_FAULT)

    def proceed(call: Call[Any]) -> Any:
        return call()

    assert run(policy) == "real"
    assert policy.execute(Call(lambda: "real"), proceed) == "real"
    assert policy.link(proceed) is proceed
    assert not policy.is_active
    assert counts(policy) == {"fault": 0, "latency": 0, "outcome": 0}
    assert "not allowed here" in caplog.text


def test_without_a_rate_nothing_is_injected_and_nothing_logged(caplog: pytest.LogCaptureFixture) -> None:
    policy = Chaos("photos", allowed=True)

    assert run(policy) == "real"
    assert not policy.is_active
    assert caplog.text == ""


@pytest.mark.parametrize("allowed", ["false", 1, None])
def test_a_permission_that_is_no_bool_is_refused(allowed: Any) -> None:
    with pytest.raises(OptionError, match="allowed must be True or False"):
        Chaos("photos", ALWAYS_FAULT, allowed=allowed)


def test_a_fault_is_raised_in_the_place_of_the_call(clock: HandClock) -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True, clock=clock)

    for _ in range(2):
        with pytest.raises(InjectedFaultError, match="photos: a fault injected on purpose"):
            run(policy)

    assert counts(policy) == {"fault": 2, "latency": 0, "outcome": 0}


def test_a_fault_may_be_any_exception() -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True, fault=lambda call: ConnectionError(call.operation))

    with pytest.raises(ConnectionError, match="read"):
        Pipeline("photos", [policy]).run(Call(list).describe(operation="read"))


def _raise(_: Call[Any]) -> Exception:
    raise ZeroDivisionError


@pytest.mark.parametrize("factory", [_raise, lambda _: "no exception", lambda _: KeyboardInterrupt()])
def test_a_factory_that_makes_no_exception_gives_the_usual_fault(factory: Any) -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True, fault=factory)

    with pytest.raises(InjectedFaultError):
        run(policy)


def test_a_factory_that_raises_is_logged_with_its_policy(caplog: pytest.LogCaptureFixture) -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True, fault=_raise)
    caplog.clear()

    with pytest.raises(InjectedFaultError):
        run(policy)

    (record,) = caplog.records
    assert record.__dict__["policy"] == "photos"
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


def test_whoever_starts_it_is_warned_by_name_and_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    Chaos("photos", ChaosOptions(fault_rate=0.1, enabled_for_seconds=60.0), allowed=True)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["policy"] == "photos"
    assert all(word in record.getMessage() for word in ("chaos", "60 s"))


def test_a_delay_is_waited_before_the_call(clock: HandClock) -> None:
    policy = Chaos("photos", ALWAYS_LATE, allowed=True, clock=clock)

    result = run(policy)

    assert result == "real"
    assert clock.slept == [2.0]
    assert counts(policy)["latency"] == 1


def test_a_delay_within_the_deadline_is_waited_in_full(clock: HandClock) -> None:
    policy = Chaos("photos", ALWAYS_LATE, allowed=True, clock=clock)

    with deadline_scope(Deadline(3.0, clock)):
        assert run(policy) == "real"

    assert clock.slept == [2.0]


@pytest.mark.parametrize(("deadline_seconds", "passed", "slept"), [(1.5, 0.0, 1.5), (2.0, 0.0, 2.0), (1.0, 5.0, 0.0)])
def test_a_delay_ends_with_the_deadline(
    clock: HandClock, deadline_seconds: float, passed: float, slept: float
) -> None:
    policy = Chaos("photos", ALWAYS_LATE, allowed=True, clock=clock)

    with deadline_scope(Deadline(deadline_seconds, clock)) as deadline:
        clock.advance(passed)
        with pytest.raises(DeadlineExceededError) as raised:
            run(policy)

    assert raised.value.deadline is deadline
    assert clock.slept == [slept]


def test_an_outcome_is_returned_in_the_place_of_the_call() -> None:
    policy = Chaos("photos", ChaosOptions(outcome_rate=1.0), allowed=True, outcome=None)

    result = run(policy)

    assert result is None
    assert counts(policy) == {"fault": 0, "latency": 0, "outcome": 1}


def test_an_outcome_that_nobody_gave_is_refused() -> None:
    with pytest.raises(OptionError, match="outcome_rate needs an outcome"):
        Chaos("photos", ChaosOptions(outcome_rate=0.1), allowed=True)


def test_it_stops_by_itself_exactly_at_its_end(clock: HandClock) -> None:
    policy = Chaos("photos", ChaosOptions(fault_rate=1.0, enabled_for_seconds=60.0), allowed=True, clock=clock)
    pipeline = Pipeline("photos", [policy])

    clock.advance(59.9)
    with pytest.raises(InjectedFaultError):
        pipeline.call(list)
    clock.advance(0.1)

    assert pipeline.call(list) == []
    assert not policy.is_active


def test_it_can_be_stopped_for_good() -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True)
    pipeline = Pipeline("photos", [policy])
    was_active = policy.is_active

    policy.stop()

    assert was_active
    assert pipeline.call(list) == []
    assert not policy.is_active


def test_a_clock_that_raises_stops_it_for_good(caplog: pytest.LogCaptureFixture) -> None:
    class FailingClock(HandClock):
        fails = False

        def monotonic(self) -> float:
            if self.fails:
                raise OSError
            return super().monotonic()

    clock = FailingClock()
    policy = Chaos("photos", ALWAYS_FAULT, allowed=True, clock=clock)
    clock.fails = True

    assert run(policy) == "real"
    clock.fails = False
    assert run(policy) == "real"
    assert "a clock raised" in caplog.text


def test_a_clock_without_a_number_stops_it() -> None:
    class NoNumberClock(HandClock):
        def monotonic(self) -> float:
            return float("nan")

    assert run(Chaos("photos", ALWAYS_FAULT, allowed=True, clock=NoNumberClock())) == "real"


def some_of_each(**changes: Any) -> ChaosOptions:
    rates: dict[str, Any] = {"fault_rate": 0.3, "outcome_rate": 0.3, "seed": 7, **changes}
    return ChaosOptions(**rates)


def decisions(name: str, options: ChaosOptions, calls: int = 60) -> list[str]:
    policy = Chaos(name, options, allowed=True, outcome="false", clock=HandClock())
    return [seen(policy) for _ in range(calls)]


@given(seed=st.integers(0, 2**63), fault_rate=st.floats(0, 1), outcome_rate=st.floats(0, 1))
def test_the_same_seed_gives_the_same_decisions(seed: int, fault_rate: float, outcome_rate: float) -> None:
    options = ChaosOptions(seed=seed, fault_rate=fault_rate, outcome_rate=outcome_rate)

    assert decisions("photos", options, 20) == decisions("photos", options, 20)


def test_another_seed_and_another_name_give_other_decisions() -> None:
    first = decisions("photos", some_of_each())

    assert set(first) == {"fault", "false", "real"}
    assert decisions("photos", some_of_each(seed=8)) != first
    assert decisions("albums", some_of_each()) != first


def test_the_decisions_of_a_seed_are_the_same_on_every_python() -> None:
    signs = {"fault": "x", "false": "o", "real": "-"}

    first = decisions("photos", some_of_each(), 12)

    assert "".join(signs[word] for word in first) == "--x-x-oox-ox"


def test_the_faults_stay_where_they_are_when_another_rate_changes() -> None:
    faults = [word == "fault" for word in decisions("photos", some_of_each())]

    other = decisions("photos", some_of_each(outcome_rate=0.9, latency_rate=0.5, latency_seconds=1.0))

    assert [word == "fault" for word in other] == faults


class LowestNumber(random.Random):
    """Draws the lowest number that there is."""

    def random(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("options", "becomes"),
    [
        (ChaosOptions(outcome_rate=1.0), "false"),
        (ChaosOptions(latency_rate=1.0, latency_seconds=2.0), "real"),
    ],
)
def test_a_rate_of_nothing_never_acts_whatever_is_drawn(
    clock: HandClock, options: ChaosOptions, becomes: str
) -> None:
    policy = Chaos("photos", options, allowed=True, outcome="false", clock=clock)
    policy._random = LowestNumber()

    assert run(policy) == becomes
    assert clock.slept == [2.0] * (options.latency_rate > 0)


def test_threads_share_one_sequence() -> None:
    policy = Chaos("photos", some_of_each(), allowed=True, outcome="false")
    pipeline = Pipeline("photos", [policy])

    def call(_: int) -> str:
        try:
            return pipeline.call(lambda: "real")
        except InjectedFaultError:
            return "fault"

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(call, range(400)))

    assert sorted(together) == sorted(decisions("photos", some_of_each(), 400))


def test_what_is_injected_is_told(clock: HandClock, bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    options = ChaosOptions(latency_rate=1.0, latency_seconds=2.0, fault_rate=1.0)
    policy = Chaos("photos", options, allowed=True, clock=clock, bus=bus)

    with pytest.raises(InjectedFaultError):
        Pipeline("photos", [policy]).run(Call(list).describe(operation="read"))

    assert bus.flush()
    assert told == [
        ChaosInjected(name="photos", operation="read", kind="latency", seconds=2.0),
        ChaosInjected(name="photos", operation="read", kind="fault"),
    ]
    assert told[0].level == logging.WARNING


@pytest.mark.parametrize(("allowed", "active"), [(True, 1), (False, 0)])
def test_whether_it_can_act_is_a_figure(allowed: bool, active: int) -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=allowed)

    figures = [(f.metric, f.kind, f.value, dict(f.labels)) for f in policy.figures()]

    assert figures == [
        ("chaos_injected", "counter", 0, {"name": "photos", "kind": "fault"}),
        ("chaos_injected", "counter", 0, {"name": "photos", "kind": "latency"}),
        ("chaos_injected", "counter", 0, {"name": "photos", "kind": "outcome"}),
        ("chaos_active", "gauge", active, {"name": "photos"}),
    ]


def test_a_delay_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="latency_rate needs a latency_seconds"):
        ChaosOptions(latency_rate=0.5)


@pytest.mark.parametrize("option", ["fault_rate", "latency_rate", "outcome_rate"])
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), True, "1"])
def test_a_rate_that_is_none_is_refused(option: str, rate: Any) -> None:
    with pytest.raises(OptionError, match=option):
        ChaosOptions(**{option: rate})


def test_rates_of_nothing_are_probably_not_meant() -> None:
    assert list(ChaosOptions().cautions()) == ["fault_rate, latency_rate and outcome_rate are 0: nothing is injected"]
    assert list(ALWAYS_FAULT.cautions()) == []


DOCUMENT = {
    "pipelines": {"photos": {"policies": ["chaos"], "chaos": {"outcome_rate": 1.0}}},
}


def test_a_document_alone_cannot_allow_it() -> None:
    document = {"pipelines": {"photos": {"policies": ["chaos"], "chaos": {"fault_rate": 1.0}}}}

    assert build_pipelines(document)["photos"].call(lambda: "real") == "real"


def test_a_document_says_how_much_and_the_program_whether() -> None:
    kinds = {"chaos": Chaos.given(allowed=True, outcome="false")}

    pipelines = build_pipelines(DOCUMENT, kinds=kinds)

    assert pipelines["photos"].call(lambda: "real") == "false"


def test_one_that_is_built_has_name_clock_and_bus_of_its_pipeline(clock: HandClock, bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    kind = Chaos.given(allowed=True)

    policy = kind.build(ALWAYS_LATE, PolicyContext("photos", clock=clock, bus=bus))

    assert run(policy) == "real"
    assert clock.slept == [2.0]
    assert bus.flush()
    assert told == [ChaosInjected(name="photos", operation="", kind="latency", seconds=2.0)]
    assert (kind.__name__, kind.__doc__) == (Chaos.__name__, Chaos.__doc__)


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_events_and_metrics_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/chaos.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.chaos", module)
    monkeypatch.setitem(sys.modules, "stability.configuration", sys.modules["app.stability.configuration"])

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    assert [w for w in ("ChaosInjected", "chaos_injected_total", "chaos_active") if f"`{w}`" not in text] == []
    assert examples
    for example in examples:
        exec(compile(example, "chaos.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page


class DeadClock:
    """Raises whatever it is asked."""

    def monotonic(self) -> float:
        raise OSError("no time")

    def sleep(self, _seconds: float) -> None:
        raise OSError("no time")


@pytest.mark.parametrize("allowed", [True, False])
def test_a_clock_that_raises_at_the_start_stops_it_for_good(*, allowed: bool) -> None:
    policy = Chaos("photos", ALWAYS_FAULT, allowed=allowed, clock=DeadClock())

    result = run(policy)

    assert result == "real"
    assert not policy.is_active


def test_a_clock_that_cannot_wait_stops_it_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Restless(HandClock):
        def sleep(self, _seconds: float) -> None:
            raise OSError("no sleep")

    options = ChaosOptions(latency_rate=1.0, latency_seconds=1.0)
    policy = Chaos("photos", options, allowed=True, clock=Restless())

    result = run(policy)

    assert result == "real"
    assert not policy.is_active
    assert "a clock raised; chaos stops" in caplog.text
