"""The cache, many callers at a time: stampedes, those who wait, and what is written after it was invalidated.

Each guard has its control: the same race without it goes wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from app.stability.cache import Cache, CacheOptions
from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.deadline import Deadline, DeadlineExceededError, deadline_scope
from app.stability.outcome import Classification
from app.stability.single_flight import Flight, SingleFlight
from tests.fakes.caches import ask, counts
from tests.fakes.clocks import HandClock
from tests.fakes.gates import PATIENCE, Flights, Gate, GatedSource, GatedTier

CALLERS = 200

OPTIONS = CacheOptions(
    ttl_seconds=10.0, stale_while_revalidate_seconds=5.0, stale_if_error_seconds=20.0, negative_ttl_seconds=4.0
)


class NoFlights(SingleFlight):
    """Without the guard against stampedes: everybody leads."""

    def board(self, key: str) -> tuple[Flight, bool]:
        return Flight(key), True


class NoVoids(SingleFlight):
    """Without the guard against what was fetched before an invalidation."""

    def void(self, key: str) -> None:
        pass


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLERS) as pool:
        yield pool


def cache_of(flights: SingleFlight, clock: HandClock, **more: Any) -> Cache:
    cache = Cache("photos", OPTIONS, clock=clock, **more)
    cache._flights = flights
    return cache


def results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


# --- Stampedes ------------------------------------------------------------------------------------------------------


def test_two_hundred_callers_on_a_cold_key_make_one_call(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    cache, start = cache_of(SingleFlight(), clock), threading.Barrier(CALLERS)
    calls: list[int] = []

    def fetch() -> int:
        calls.append(1)
        return len(calls)

    def come() -> Any:
        start.wait(PATIENCE)
        return ask(cache, fetch)

    answers = results([pool.submit(come) for _ in range(CALLERS)])

    assert answers == [1] * CALLERS
    assert len(calls) == 1
    counted = counts(cache)
    first_looks = sum(counted.get(("memory", result), 0) for result in ("hit", "miss"))
    assert first_looks == CALLERS
    assert counted["memory", "miss"] == counted.get(("flight", "hit"), 0) + 1


def test_control_without_flights_each_of_them_makes_a_call(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    cache, together = cache_of(NoFlights(), clock), threading.Barrier(CALLERS)
    calls: list[int] = []

    def fetch() -> int:
        calls.append(1)
        return together.wait(PATIENCE)  # nobody gets through before all are here

    results([pool.submit(ask, cache, fetch) for _ in range(CALLERS)])

    assert len(calls) == CALLERS


def test_a_caller_who_missed_just_before_a_flight_landed_makes_no_second_call(clock: HandClock) -> None:
    class SlowToBoard(SingleFlight):
        is_first = True

        def board(self, key: str) -> tuple[Flight, bool]:
            if self.is_first:
                self.is_first = False
                ask(cache, lambda: "of another caller")  # comes and goes between the miss and the boarding
            return super().board(key)

    cache = cache_of(SlowToBoard(), clock)

    answer = ask(cache, lambda: "second call")

    assert answer == "of another caller"
    assert counts(cache) == {("memory", "miss"): 2, ("source", "hit"): 1, ("flight", "hit"): 1}


def test_a_caller_who_missed_just_before_a_negative_flight_landed_gets_its_error(clock: HandClock) -> None:
    class SlowToBoard(SingleFlight):
        is_first = True

        def board(self, key: str) -> tuple[Flight, bool]:
            if self.is_first:
                self.is_first = False
                with pytest.raises(LookupError):
                    ask(cache, _miss)
            return super().board(key)

    cache = cache_of(SlowToBoard(), clock, negative=(LookupError,))

    with pytest.raises(LookupError):
        ask(cache, lambda: "second call")
    assert counts(cache)["flight", "negative"] == 1


def _miss() -> Any:
    raise LookupError("a.jpg")


def test_who_comes_while_the_leader_still_writes_gets_its_answer_at_once(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    remote = GatedTier(clock)
    remote.before_put = gate = Gate()
    cache = cache_of(SingleFlight(), clock, tiers=[MemoryTier(clock=clock), remote])
    leader = pool.submit(ask, cache, lambda: "value")
    gate.wait_for_arrival()

    answer = ask(cache, lambda: "second call")
    gate.open()

    assert answer == "value"
    assert leader.result(PATIENCE) == "value"
    assert counts(cache)["flight", "hit"] == 1


@pytest.mark.parametrize(("negative", "result"), [((), "error"), ((ConnectionError,), "negative")])
def test_a_leaders_error_goes_to_all_who_wait(
    clock: HandClock, pool: ThreadPoolExecutor, negative: tuple[type[Exception], ...], result: str
) -> None:
    flights, source = Flights(), GatedSource(ConnectionError("down"))
    cache = cache_of(flights, clock, negative=negative)

    futures = [pool.submit(ask, cache, source) for _ in range(5)]
    flights.wait_for_boardings(5)
    source.gate.open()
    raised = [future.exception(PATIENCE) for future in futures]

    assert source.calls == 1
    assert {type(error) for error in raised} == {ConnectionError}
    assert len({id(error) for error in raised}) == 5
    assert counts(cache)["flight", result] == 4


def test_a_leaders_error_that_is_an_answer_goes_to_all_who_wait(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), GatedSource(PermissionError("not yours"))
    cache = cache_of(flights, clock, classification=Classification(failures=(ConnectionError,)))

    futures = [pool.submit(ask, cache, source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.gate.open()

    assert {repr(future.exception(PATIENCE)) for future in futures} == {"PermissionError('not yours')"}
    assert source.calls == 1


def test_a_leaders_value_that_is_a_failure_goes_to_all_who_wait(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), GatedSource(-1)
    cache = cache_of(flights, clock, classification=Classification(failing_result=lambda value: value < 0))

    futures = [pool.submit(ask, cache, source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.gate.open()

    assert results(futures) == [-1] * 3
    assert source.calls == 1


RETURNED = ValueError("returned, not raised")


@pytest.mark.parametrize(
    ("entry", "becomes"),
    [
        (Entry("a", "value", 5.0), "value"),
        (Entry("a", RETURNED, 5.0), RETURNED),
        (Entry("a", "nothing", 4.0, is_negative=True), "nothing"),
        (Entry("a", LookupError("a.jpg"), 4.0, is_negative=True), "LookupError('a.jpg')"),
    ],
)
def test_what_the_leader_finds_in_a_lower_tier_goes_to_all_who_wait(
    clock: HandClock, pool: ThreadPoolExecutor, entry: Entry, becomes: Any
) -> None:
    flights, remote = Flights(), GatedTier(clock)
    remote.put("a", entry, 10.0)
    remote.after_get = gate = Gate()
    cache = cache_of(flights, clock, tiers=[MemoryTier(clock=clock), remote], negative=(LookupError,))

    def outcome() -> Any:
        try:
            return ask(cache, lambda: "called")
        except LookupError as error:
            return repr(error)

    leader = pool.submit(outcome)
    flights.wait_for_boardings(1)
    follower = pool.submit(outcome)
    flights.wait_for_boardings(1)
    gate.open()

    assert results([leader, follower]) == [becomes, becomes]


# --- Stale values ---------------------------------------------------------------------------------------------------


def test_while_one_refreshes_all_others_get_the_stale_value_at_once(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    cache, source = cache_of(SingleFlight(), clock), GatedSource("new")
    ask(cache, lambda: "old")
    clock.advance(12.0)
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()

    others = [ask(cache, source) for _ in range(3)]
    source.gate.open()

    assert others == ["old"] * 3
    assert leader.result(PATIENCE) == "new"
    assert source.calls == 1
    assert counts(cache)["memory", "stale"] == 3


def test_after_that_time_all_wait_for_the_one_who_refreshes(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), GatedSource("new")
    cache = cache_of(flights, clock)
    ask(cache, lambda: "old")
    flights.wait_for_boardings(1)
    clock.advance(15.0)

    futures = [pool.submit(ask, cache, source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.gate.open()

    assert results(futures) == ["new"] * 3


def test_a_failed_refresh_gives_the_stale_value_to_all_who_wait(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), GatedSource(ConnectionError())
    cache = cache_of(flights, clock)
    ask(cache, lambda: "old")
    flights.wait_for_boardings(1)
    clock.advance(15.0)

    futures = [pool.submit(ask, cache, source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.gate.open()

    assert results(futures) == ["old"] * 3
    assert source.calls == 1


# --- Leaders that do not arrive -------------------------------------------------------------------------------------


def test_a_leader_that_hangs_holds_nobody_beyond_their_deadline(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    cache, source = cache_of(SingleFlight(), clock), GatedSource()
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()

    with deadline_scope(Deadline(0.02)), pytest.raises(DeadlineExceededError):
        ask(cache, source)
    source.gate.open()

    assert leader.result(PATIENCE) == "value"


def test_who_has_no_more_time_to_wait_gets_a_stale_value(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    cache, source = cache_of(SingleFlight(), clock), GatedSource()
    ask(cache, lambda: "old")
    clock.advance(15.0)
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()

    with deadline_scope(Deadline(0.02)):
        answer = ask(cache, source)
    source.gate.open()

    assert answer == "old"
    assert leader.result(PATIENCE) == "value"
    assert counts(cache)["memory", "stale"] == 1


def test_a_leader_that_hangs_is_replaced_and_keeps_nothing(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    options = CacheOptions(max_flight_wait_seconds=0.02)
    cache, source = Cache("photos", options, clock=clock), GatedSource("late")
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()

    answer = ask(cache, lambda: "taken over")
    source.gate.open()

    assert answer == "taken over"
    assert leader.result(PATIENCE) == "late"
    assert ask(cache, lambda: "third call") == "taken over"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_leader_that_is_interrupted_lets_another_take_over(
    clock: HandClock, pool: ThreadPoolExecutor, error: BaseException
) -> None:
    flights, source = Flights(), GatedSource(error)
    cache = cache_of(flights, clock)
    leader = pool.submit(ask, cache, source)
    flights.wait_for_boardings(1)
    followers = [pool.submit(ask, cache, lambda: "taken over") for _ in range(3)]
    flights.wait_for_boardings(3)

    source.gate.open()

    assert leader.exception(PATIENCE) is error
    assert results(followers) == ["taken over"] * 3


def test_a_leader_whose_own_time_is_over_lets_another_take_over(clock: HandClock, pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), GatedSource(TimeoutError())
    cache = cache_of(flights, clock)

    def lead() -> None:
        with deadline_scope(Deadline(1.0, clock)):
            ask(cache, source)

    leader = pool.submit(lead)
    flights.wait_for_boardings(1)
    follower = pool.submit(ask, cache, lambda: "taken over")
    flights.wait_for_boardings(1)
    clock.advance(1.0)
    source.gate.open()

    assert isinstance(leader.exception(PATIENCE), TimeoutError)
    assert follower.result(PATIENCE) == "taken over"


def test_a_leader_that_was_refused_for_its_own_lack_of_time_lets_another_take_over(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    flights, source = Flights(), GatedSource(DeadlineExceededError())
    cache = cache_of(flights, clock)

    def lead() -> None:
        with deadline_scope(Deadline(1.0, clock)):  # not over yet, and too short for the call
            ask(cache, source)

    leader = pool.submit(lead)
    flights.wait_for_boardings(1)
    follower = pool.submit(ask, cache, lambda: "taken over")
    flights.wait_for_boardings(1)
    source.gate.open()

    assert leader.exception(PATIENCE) is source.result
    assert follower.result(PATIENCE) == "taken over"


# --- Invalidation ---------------------------------------------------------------------------------------------------


def invalidate_during_the_fetch(flights: SingleFlight, clock: HandClock, pool: ThreadPoolExecutor) -> list[Any]:
    """Return what comes out of a fetch that an invalidation overtakes, and of the next call."""
    cache, source = cache_of(flights, clock), GatedSource("old")
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()

    assert cache.invalidate("a")
    source.gate.open()
    return [leader.result(PATIENCE), ask(cache, lambda: "new")]


def test_what_was_fetched_before_an_invalidation_is_not_kept_after(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    assert invalidate_during_the_fetch(SingleFlight(), clock, pool) == ["old", "new"]


def test_control_without_the_guard_what_was_fetched_before_is_kept(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    assert invalidate_during_the_fetch(NoVoids(), clock, pool) == ["old", "old"]


def test_who_comes_after_an_invalidation_does_not_wait_for_the_fetch_before_it(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    cache, source = cache_of(SingleFlight(), clock), GatedSource("old")
    leader = pool.submit(ask, cache, source)
    source.gate.wait_for_arrival()
    cache.invalidate("a")

    answer = ask(cache, lambda: "new")
    source.gate.open()

    assert answer == "new"
    assert leader.result(PATIENCE) == "old"
    assert ask(cache, lambda: "third call") == "new"


def answer_or_source(cache: Cache) -> Any:
    """Return what the cache gives, or that it asks the source."""

    def fail() -> Any:
        raise ConnectionError

    try:
        return ask(cache, fail)
    except ConnectionError:
        return "asks the source"


def write_lands_after_the_invalidation(
    flights: SingleFlight, clock: HandClock, pool: ThreadPoolExecutor, *above: MemoryTier
) -> tuple[list[Any], Cache]:
    """Return what is given while an old value lies in the lowest tier, and after its writer has come back."""
    remote, before, after = GatedTier(clock), Gate(), Gate()
    remote.before_put, remote.after_put = before, after
    cache = cache_of(flights, clock, tiers=[*above, remote])
    leader = pool.submit(ask, cache, lambda: "old")
    before.wait_for_arrival()

    cache.invalidate("a")
    before.open()
    after.wait_for_arrival()
    assert MemoryTier.get(remote, "a") is not None  # it has landed
    answers = [answer_or_source(cache)]
    after.open()
    assert leader.result(PATIENCE) == "old"
    return [*answers, answer_or_source(cache)], cache


@pytest.mark.parametrize("tiers_above", [0, 1])
def test_a_write_that_lands_after_the_invalidation_is_seen_by_nobody_and_taken_back(
    clock: HandClock, pool: ThreadPoolExecutor, tiers_above: int
) -> None:
    above = [MemoryTier(clock=clock)] * tiers_above
    answers, cache = write_lands_after_the_invalidation(SingleFlight(), clock, pool, *above)

    assert answers == ["asks the source"] * 2
    assert [ask(cache, lambda: "new"), ask(cache, lambda: "third call")] == ["new", "new"]


def test_control_without_the_guard_a_write_that_lands_later_is_seen_and_stays(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    answers, _ = write_lands_after_the_invalidation(NoVoids(), clock, pool, MemoryTier(clock=clock))

    assert answers == ["old", "old"]


def invalidate_on_the_way_up(
    flights: SingleFlight, clock: HandClock, pool: ThreadPoolExecutor
) -> tuple[Any, Entry | None]:
    """Return what a caller gets who read the lower tier before an invalidation, and what lies above after it."""
    memory, remote, gate = MemoryTier(clock=clock), GatedTier(clock), Gate()
    cache = cache_of(flights, clock, tiers=[memory, remote])
    ask(cache, lambda: "old")
    memory.clear()
    remote.after_get = gate
    reader = pool.submit(ask, cache, lambda: "new")
    gate.wait_for_arrival()

    cache.invalidate("a")
    gate.open()
    return reader.result(PATIENCE), memory.get("a")


def test_a_value_on_its_way_up_is_not_kept_above_after_an_invalidation(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    assert invalidate_on_the_way_up(SingleFlight(), clock, pool) == ("old", None)


def test_control_without_the_guard_a_value_on_its_way_up_stays_above(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    assert invalidate_on_the_way_up(NoVoids(), clock, pool) == ("old", Entry("a", "old", 10.0))


def test_a_reader_who_begins_between_two_tiers_of_an_invalidation_keeps_nothing_either(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    class GatedRemoval(GatedTier):
        def remove(self, key: str) -> None:
            reader.append(pool.submit(ask, cache, lambda: "new"))
            gate.wait_for_arrival()  # the reader has read the old value here
            super().remove(key)

    reader: list[Future[Any]] = []
    memory, remote, gate = MemoryTier(clock=clock), GatedRemoval(clock), Gate()
    cache = cache_of(SingleFlight(), clock, tiers=[memory, remote])
    ask(cache, lambda: "old")
    memory.clear()
    remote.after_get = gate

    cache.invalidate("a")
    gate.open()

    assert results(reader) == ["old"]
    assert memory.get("a") is None


def test_whoever_asks_after_an_invalidation_never_gets_what_was_before_it(
    clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    cache = cache_of(SingleFlight(), clock, tiers=[MemoryTier(clock=clock), MemoryTier(name="remote", clock=clock)])
    truth, confirmed, end = [0], [0], threading.Event()
    wrong: list[tuple[int, int]] = []

    def read() -> None:
        while not end.is_set():
            least = confirmed[0]
            got = ask(cache, lambda: truth[0])
            if got < least:
                wrong.append((got, least))

    readers = [pool.submit(read) for _ in range(6)]
    for number in range(1, 400):
        truth[0] = number
        cache.invalidate("a")
        confirmed[0] = number
    end.set()
    results(readers)

    assert wrong == []
