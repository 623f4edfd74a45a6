"""The cache, one caller at a time: what is kept, for how long, and what helps against a failing source."""

from __future__ import annotations

from typing import Any

import pytest

from app.stability.cache import Cache, CacheOptions
from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.deadline import Deadline, DeadlineExceededError, deadline_scope
from app.stability.errors import CallNotPermittedError
from app.stability.outcome import Classification
from app.stability.single_flight import Flight, SingleFlight
from tests.fakes.caches import RemoteTier, ask, counts
from tests.fakes.clocks import HandClock


class MissingError(LookupError):
    """There is no such thing."""


OPTIONS = CacheOptions(
    ttl_seconds=10.0, stale_while_revalidate_seconds=5.0, stale_if_error_seconds=20.0, negative_ttl_seconds=4.0
)
ONLY_FRESH = CacheOptions(ttl_seconds=10.0)


class Source:
    """Gives a new number for each call, unless it is told what else to do."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def source() -> Source:
    return Source()


def test_an_answer_is_given_again_until_its_time_is_over(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", ONLY_FRESH, clock=clock)

    answers = [ask(cache, source)]
    clock.advance(9.999)
    answers.append(ask(cache, source))
    clock.advance(0.001)
    answers.append(ask(cache, source))

    assert answers == [1, 1, 2]
    assert counts(cache) == {("memory", "miss"): 2, ("memory", "hit"): 1, ("source", "hit"): 2}


def test_an_answer_is_stale_exactly_when_its_time_is_over(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", OPTIONS, clock=clock)
    ask(cache, source)
    clock.advance(10.0)

    assert ask(cache, source) == 2


def test_an_answer_with_a_time_below_a_second_is_kept_for_it(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", CacheOptions(ttl_seconds=0.5), clock=clock)

    answers = [ask(cache, source) for _ in range(2)]
    clock.advance(0.5)
    answers.append(ask(cache, source))

    assert answers == [1, 1, 2]


def test_calls_without_a_key_pass(source: Source) -> None:
    cache = Cache("photos")

    answers = [ask(cache, source, key="") for _ in range(2)]

    assert answers == [1, 2]
    assert counts(cache) == {}


def test_keys_are_told_apart(source: Source) -> None:
    cache = Cache("photos")

    answers = [ask(cache, source, key=key) for key in "abab"]

    assert answers == [1, 2, 1, 2]


def test_none_is_an_answer() -> None:
    cache, calls = Cache("photos"), []

    answers = [ask(cache, lambda: calls.append(1)) for _ in range(2)]

    assert answers == [None, None]
    assert calls == [1]


def test_a_failure_is_raised_as_it_is_and_not_kept(source: Source) -> None:
    cache, source.error = Cache("photos", OPTIONS), ConnectionError("down")

    with pytest.raises(ConnectionError) as raised:
        ask(cache, source)
    first, source.error = source.error, None

    assert raised.value is first
    assert ask(cache, source) == 2
    assert counts(cache)["source", "error"] == 1


# --- Stale values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ConnectionError(), CallNotPermittedError("store", "open"), DeadlineExceededError(), TimeoutError()]
)
def test_a_stale_value_helps_against_a_failure(clock: HandClock, source: Source, error: Exception) -> None:
    cache = Cache("photos", OPTIONS, clock=clock)
    ask(cache, source)
    clock.advance(29.9)
    source.error = error

    answer = ask(cache, source)

    assert answer == 1
    assert source.calls == 2
    assert counts(cache)["memory", "stale"] == 1


def test_a_stale_value_helps_for_its_time_and_no_longer(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", OPTIONS, clock=clock)
    ask(cache, source)
    clock.advance(30.0)
    source.error = ConnectionError()

    with pytest.raises(ConnectionError):
        ask(cache, source)


def test_what_is_good_enough_while_it_is_refreshed_is_so_when_that_fails(clock: HandClock, source: Source) -> None:
    options = CacheOptions(ttl_seconds=10.0, stale_while_revalidate_seconds=5.0)
    cache = Cache("photos", options, clock=clock)
    ask(cache, source)
    clock.advance(14.9)
    source.error = ConnectionError()

    assert ask(cache, source) == 1


def test_without_stale_times_nothing_stale_is_given(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", ONLY_FRESH, clock=clock)
    ask(cache, source)
    clock.advance(10.0)
    source.error = ConnectionError()

    with pytest.raises(ConnectionError):
        ask(cache, source)


def test_the_one_who_refreshes_a_stale_value_gets_the_fresh_one(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", OPTIONS, clock=clock)
    ask(cache, source)
    clock.advance(12.0)

    answers = [ask(cache, source) for _ in range(2)]

    assert answers == [2, 2]


def test_an_error_that_is_an_answer_ends_what_was_kept(clock: HandClock, source: Source) -> None:
    rules = Classification(failures=(ConnectionError,))
    cache = Cache("photos", OPTIONS, classification=rules, clock=clock)
    ask(cache, source)
    clock.advance(11.0)
    source.error = PermissionError()

    with pytest.raises(PermissionError):
        ask(cache, source)
    source.error = ConnectionError()
    with pytest.raises(ConnectionError):
        ask(cache, source)

    assert source.calls == 3


# --- Values that are failures ---------------------------------------------------------------------------------------

NEGATIVE_NUMBERS_FAIL = Classification(failing_result=lambda value: value < 0)


def test_a_value_that_is_a_failure_is_returned_and_not_kept() -> None:
    cache, values = Cache("photos", OPTIONS, classification=NEGATIVE_NUMBERS_FAIL), iter([-1, 2, 3])

    answers = [ask(cache, lambda: next(values)) for _ in range(3)]

    assert answers == [-1, 2, 2]
    assert counts(cache)["source", "error"] == 1


def test_a_stale_value_helps_against_a_value_that_is_a_failure(clock: HandClock) -> None:
    cache = Cache("photos", OPTIONS, classification=NEGATIVE_NUMBERS_FAIL, clock=clock)
    ask(cache, lambda: 1)
    clock.advance(12.0)

    assert ask(cache, lambda: -1) == 1


def test_a_value_that_nobody_could_judge_is_returned_and_not_kept(source: Source) -> None:
    rules = Classification(failing_result=lambda value: bool(value.status))
    cache = Cache("photos", classification=rules)

    assert [ask(cache, source) for _ in range(2)] == [1, 2]


# --- Negative answers -----------------------------------------------------------------------------------------------


def missing_cache(clock: HandClock, options: CacheOptions = OPTIONS, **more: Any) -> Cache:
    return Cache("photos", options, negative=(MissingError,), clock=clock, **more)


def test_a_negative_error_is_raised_again_as_a_fresh_copy(clock: HandClock, source: Source) -> None:
    cache, source.error = missing_cache(clock), MissingError("a.jpg")

    raised = []
    for _ in range(3):
        with pytest.raises(MissingError, match=r"a\.jpg") as caught:
            ask(cache, source)
        raised.append(caught.value)
        caught.value.add_note("of this caller")

    assert source.calls == 1
    assert len({id(error) for error in raised}) == 3
    assert [error.__notes__ for error in raised] == [["of this caller"]] * 3
    assert counts(cache) == {("memory", "miss"): 1, ("source", "negative"): 1, ("memory", "negative"): 2}


def test_a_negative_answer_has_its_own_time_and_never_helps_when_stale(clock: HandClock, source: Source) -> None:
    cache, source.error = missing_cache(clock), MissingError()
    with pytest.raises(MissingError):
        ask(cache, source)
    clock.advance(4.0)
    source.error = ConnectionError()

    with pytest.raises(ConnectionError):
        ask(cache, source)


def test_without_a_negative_time_none_is_kept_and_what_was_kept_ends(clock: HandClock, source: Source) -> None:
    options = CacheOptions(ttl_seconds=10.0, stale_if_error_seconds=20.0)
    cache = missing_cache(clock, options)
    ask(cache, source)
    clock.advance(11.0)
    for error in (MissingError(), ConnectionError()):
        source.error = error

        with pytest.raises(type(error)):
            ask(cache, source)

    assert source.calls == 3


def test_a_negative_answer_takes_the_place_of_a_value(clock: HandClock, source: Source) -> None:
    cache = missing_cache(clock)
    ask(cache, source)
    clock.advance(11.0)
    source.error = MissingError()
    with pytest.raises(MissingError):
        ask(cache, source)
    clock.advance(4.0)
    source.error = ConnectionError()

    with pytest.raises(ConnectionError):
        ask(cache, source)


def test_a_negative_error_that_cannot_be_copied_is_not_kept(clock: HandClock, source: Source) -> None:
    class TwoArgumentsError(MissingError):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    cache, source.error = missing_cache(clock), TwoArgumentsError(1, 2)

    for _ in range(2):
        with pytest.raises(TwoArgumentsError):
            ask(cache, source)

    assert source.calls == 2


def test_a_returned_value_may_be_a_negative_answer(clock: HandClock) -> None:
    calls: list[int] = []
    cache = Cache("photos", OPTIONS, negative_result=lambda value: value is None, clock=clock)

    answers = [ask(cache, lambda: calls.append(1)) for _ in range(2)]
    clock.advance(4.0)
    answers.append(ask(cache, lambda: calls.append(1)))

    assert answers == [None] * 3
    assert len(calls) == 2
    assert counts(cache) == {("memory", "miss"): 2, ("memory", "negative"): 1, ("source", "negative"): 2}


def test_an_exception_that_is_returned_comes_back_and_is_not_raised(clock: HandClock) -> None:
    error = ValueError()
    cache = Cache("photos", OPTIONS, clock=clock)

    assert [ask(cache, lambda: error) for _ in range(2)] == [error, error]


def test_a_rule_for_negative_results_that_raises_calls_it_none(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache("photos", OPTIONS, negative_result=lambda value: bool(value.odd), clock=clock)

    answers = [ask(cache, lambda: 1)]
    clock.advance(5.0)
    answers.append(ask(cache, lambda: 2))

    assert answers == [1, 1]
    assert "the rule for negative results raised" in caplog.text
    assert [record.__dict__["policy"] for record in caplog.records] == ["photos"]


# --- Tiers ----------------------------------------------------------------------------------------------------------


def two_tiers(clock: HandClock) -> tuple[Cache, MemoryTier, RemoteTier]:
    memory, remote = MemoryTier(clock=clock), RemoteTier(clock)
    return Cache("photos", OPTIONS, tiers=[memory, remote], negative=(MissingError,)), memory, remote


def test_what_a_lower_tier_has_is_given_and_kept_above(clock: HandClock, source: Source) -> None:
    cache, memory, remote = two_tiers(clock)
    ask(cache, source)
    memory.clear()
    clock.advance(4.0)

    answers = [ask(cache, source) for _ in range(2)]
    kept = memory.get("a")

    assert answers == [1, 1]
    assert remote.writes == 1  # it has it already
    assert kept == Entry("a", 1, 6.0)
    assert counts(cache)["remote", "hit"] == 1


def test_a_negative_answer_of_a_lower_tier_is_raised_and_kept_above(clock: HandClock, source: Source) -> None:
    cache, memory, _ = two_tiers(clock)
    source.error = MissingError("a.jpg")

    for _ in range(2):
        with pytest.raises(MissingError):
            ask(cache, source)
        memory.clear()

    assert source.calls == 1
    assert counts(cache)["remote", "negative"] == 1


def test_a_stale_value_of_a_lower_tier_helps_and_goes_up(clock: HandClock, source: Source) -> None:
    cache, memory, remote = two_tiers(clock)
    ask(cache, source)
    memory.clear()
    clock.advance(12.0)
    source.error = ConnectionError()

    answer = ask(cache, source)

    assert answer == 1
    assert memory.get("a") == Entry("a", 1, -2.0)
    assert remote.writes == 1  # it has it already
    assert counts(cache)["remote", "stale"] == 1


def test_a_fresh_value_below_is_preferred_to_a_stale_one_above(clock: HandClock, source: Source) -> None:
    cache, _, remote = two_tiers(clock)
    ask(cache, source)
    clock.advance(12.0)
    remote.put("a", Entry("a", "of another process", 8.0), 28.0)

    assert ask(cache, source) == "of another process"
    assert source.calls == 1


@pytest.mark.parametrize(
    ("second", "answer"),
    [
        (None, "of the third"),
        (Entry("a", "stale", 0.0), "of the third"),
        (Entry("a", "of the second", 0.5), "of the second"),
    ],
)
def test_tiers_are_asked_in_order_until_one_has_a_fresh_value(
    clock: HandClock, source: Source, second: Entry | None, answer: str
) -> None:
    tiers = [RemoteTier(clock, name) for name in ("first", "second", "third")]
    cache = Cache("photos", OPTIONS, tiers=tiers)
    tiers[2].put("a", Entry("a", "of the third", 5.0), 5.0)
    if second is not None:
        tiers[1].put("a", second, 5.0)

    assert ask(cache, source) == answer
    assert tiers[2].counts.hits == (answer == "of the third")


def test_of_two_stale_values_the_fresher_one_helps(clock: HandClock, source: Source) -> None:
    cache, memory, remote = two_tiers(clock)
    source.error = ConnectionError()
    answers = []
    for above, below in ((-2.0, -1.0), (-1.0, -2.0)):
        memory.put("a", Entry("a", "above", above), 10.0)
        remote.put("a", Entry("a", "below", below), 10.0)

        answers.append(ask(cache, source))

    assert answers == ["below", "above"]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_tier_is_skipped_and_never_an_error(clock: HandClock, source: Source, dead: int) -> None:
    tiers = [RemoteTier(clock, "upper"), RemoteTier(clock, "lower")]
    tiers[dead].error = ConnectionError()
    cache = Cache("photos", OPTIONS, tiers=tiers)

    answers = [ask(cache, source) for _ in range(3)]

    assert answers == [1, 1, 1]
    assert counts(cache)[tiers[dead].name, "error"] > 0


def test_with_all_tiers_dead_every_call_is_made(clock: HandClock, source: Source) -> None:
    remote = RemoteTier(clock)
    remote.error = ConnectionError()
    cache = Cache("photos", OPTIONS, tiers=[remote])

    assert [ask(cache, source) for _ in range(3)] == [1, 2, 3]


def test_what_a_tier_brings_is_judged_by_the_callers_rule(clock: HandClock, source: Source) -> None:
    memory = MemoryTier(clock=clock)
    memory.put("a", Entry("a", "poison", 10.0), 10.0)
    cache = Cache("photos", OPTIONS, tiers=[memory], accepts=lambda _key, value: isinstance(value, int))

    assert [ask(cache, source) for _ in range(2)] == [1, 1]


# --- Invalidation ---------------------------------------------------------------------------------------------------


def test_an_invalidated_key_is_asked_for_again(clock: HandClock, source: Source) -> None:
    cache, _, _ = two_tiers(clock)
    ask(cache, source)
    ask(cache, source, key="b")

    is_forgotten = cache.invalidate("a")

    assert is_forgotten
    assert ask(cache, source) == 3
    assert ask(cache, source, key="b") == 2


def test_an_invalidated_value_does_not_help_against_a_failure(clock: HandClock, source: Source) -> None:
    cache, _, _ = two_tiers(clock)
    ask(cache, source)
    cache.invalidate("a")
    source.error = ConnectionError()

    with pytest.raises(ConnectionError):
        ask(cache, source)


def test_a_tier_that_could_not_forget_is_told(clock: HandClock, source: Source) -> None:
    cache, memory, remote = two_tiers(clock)
    ask(cache, source)
    remote.error = ConnectionError()

    is_forgotten = cache.invalidate("a")

    assert not is_forgotten
    assert memory.get("a") is None
    assert counts(cache)["remote", "error"] == 1


def test_what_was_fetched_before_an_invalidation_is_returned_and_not_kept(clock: HandClock) -> None:
    cache, memory, remote = two_tiers(clock)

    def fetch_while_it_changes() -> str:
        cache.invalidate("a")
        return "old"

    answer = ask(cache, fetch_while_it_changes)

    assert answer == "old"
    assert memory.get("a") is None
    assert remote.get("a") is None


def test_a_stale_value_that_is_invalidated_during_the_refresh_does_not_help(clock: HandClock) -> None:
    cache, _, _ = two_tiers(clock)
    ask(cache, lambda: "old")
    clock.advance(12.0)

    def fail_while_it_changes() -> str:
        cache.invalidate("a")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ask(cache, fail_while_it_changes)


# --- What ends early ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_ends_the_process_passes_and_leaves_nothing_behind(
    clock: HandClock, source: Source, error: BaseException
) -> None:
    cache, source.error = Cache("photos", OPTIONS, clock=clock), error
    with pytest.raises(type(error)) as raised:
        ask(cache, source)
    source.error = None

    assert raised.value is error
    assert ask(cache, source) == 2


def test_an_interrupt_during_a_write_leaves_no_key_doomed(clock: HandClock, source: Source) -> None:
    cache, _, remote = two_tiers(clock)
    remote.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        ask(cache, source)
    remote.error = None

    answers = [ask(cache, source) for _ in range(2)]

    assert answers == [1, 1]


def test_a_source_that_asks_its_own_cache_does_not_wait_for_itself(clock: HandClock, source: Source) -> None:
    class NeverFollowed(SingleFlight):
        def follow(self, flight: Flight) -> bool:
            raise AssertionError(flight.key)

    cache = Cache("photos", OPTIONS, clock=clock)
    cache._flights = NeverFollowed()

    assert ask(cache, lambda: ask(cache, source) + 100) == 101


def test_a_clock_that_raises_makes_every_call_a_miss(source: Source) -> None:
    class BrokenClock(HandClock):
        def monotonic(self) -> float:
            raise OSError

    cache = Cache("photos", OPTIONS, clock=BrokenClock())

    assert [ask(cache, source) for _ in range(2)] == [1, 2]
    assert counts(cache)["memory", "error"] == 4


def test_a_deadline_that_has_passed_gives_a_fresh_value_all_the_same(clock: HandClock, source: Source) -> None:
    cache = Cache("photos", OPTIONS, clock=clock)
    ask(cache, source)

    with deadline_scope(Deadline(1.0, clock)):
        clock.advance(2.0)

        assert ask(cache, source) == 1
