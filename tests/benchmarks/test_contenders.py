"""What stands beside each other in the benchmarks does the same: it calls once, it opens, it retries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.stability.contenders import CircuitOpenError, Contender, Watched, bare_closure
from benchmarks.stability.dependency import Dependency, UnavailableError, tripped
from benchmarks.stability.lines import BUDGET_CALLS, REQUESTS, calls_while_down
from benchmarks.stability.peers import ALL_FOUR, ATTEMPTS, BREAKERS, IMPATIENT, RETRIES

WITHOUT_BUDGET = ("tenacity", "stamina")


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.bus.close()


def ours(watched: Watched) -> tuple[Contender, ...]:
    return (
        Contender("bare closure", bare_closure),
        Contender("breaker", watched.breaker),
        Contender("breaker, time", watched.breaker_with("time_based", 100)),
        Contender("retry", watched.retry),
        Contender("all four", watched.all_four),
    )


@pytest.mark.parametrize("contender", [*BREAKERS, *RETRIES, *ALL_FOUR, *IMPATIENT], ids=lambda each: each.name)
def test_a_peer_calls_once_and_returns_the_result(contender: Contender) -> None:
    dependency = Dependency()

    result = contender.guard(dependency.answer_or_fail)()

    assert (result, dependency.calls) == ("ok", 1)


def test_ours_call_once_and_return_the_result(watched: Watched) -> None:
    dependency = Dependency()

    results = [contender.guard(dependency.answer_or_fail)() for contender in ours(watched)]

    assert results == ["ok"] * dependency.calls


@pytest.mark.parametrize("contender", BREAKERS, ids=lambda each: each.name)
def test_the_breaker_of_a_peer_opens_and_refuses(contender: Contender) -> None:
    guarded, dependency = tripped(contender.guard)
    reached = dependency.calls

    with pytest.raises(Exception) as refusal:  # noqa: PT011  # each has a class of its own
        guarded()

    assert not isinstance(refusal.value, UnavailableError)
    assert dependency.calls == reached


def test_our_breaker_and_the_bare_one_open_and_refuse_after_as_many_failures(watched: Watched) -> None:
    _, dependency = tripped(watched.breaker)
    guarded, bare = tripped(bare_closure)

    with pytest.raises(CircuitOpenError):
        guarded()

    assert dependency.calls == bare.calls == 100


def test_retries_without_a_budget_make_every_attempt() -> None:
    found = {each.name: calls_while_down(each.guard) for each in IMPATIENT if each.name in WITHOUT_BUDGET}

    assert found == dict.fromkeys(WITHOUT_BUDGET, float(ATTEMPTS))


def test_our_retries_stay_within_their_budget_while_all_is_down(watched: Watched) -> None:
    alone = calls_while_down(watched.patient_retry)
    with_breaker = calls_while_down(watched.patient_retry_and_breaker)

    assert 1 < alone <= BUDGET_CALLS
    assert with_breaker == 100 / REQUESTS


def test_the_figures_of_ours_are_there_to_be_read_and_its_events_are_heard(watched: Watched) -> None:
    tripped(watched.breaker)

    assert watched.read() > 0
    assert watched.bus.flush()
    assert watched.heard > 0
