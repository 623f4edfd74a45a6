"""What probes are answered with, by whom it may be: from memory, with the same words everywhere."""

from __future__ import annotations

import os

import orjson
import pytest

from app.ops.build import VERSION, find_instance
from app.ops.health import HealthMonitor
from app.ops.lifecycle import Lifecycle, State
from app.ops.probes import HEALTH_TYPE, PROBE_PATHS, ProbeAnswers
from app.ops.sampling import CheckResult, Status

INSTANCE = find_instance("10.0.0.7", "node-7")


def answers_in(state: State) -> ProbeAnswers:
    lifecycle = Lifecycle()
    lifecycle.advance(state)
    monitor = HealthMonitor(lifecycle)
    monitor.register("spool", lambda: CheckResult(Status.PASS), local=True)
    monitor.sample()
    return ProbeAnswers(monitor, INSTANCE)


@pytest.mark.parametrize("path", sorted(PROBE_PATHS))
def test_every_probe_path_has_an_answer_that_no_cache_keeps(path: str) -> None:
    answer = answers_in(State.READY).answer(path)

    assert answer.status == 200
    assert dict(answer.headers)["Cache-Control"] == "no-store"
    assert isinstance(orjson.loads(answer.body), dict)


def test_health_tells_of_the_mode_where_there_is_one_and_readiness_never() -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(State.READY)
    mode = {"name": "degraded", "reasons": ["storage_writes"]}
    probes = ProbeAnswers(HealthMonitor(lifecycle), INSTANCE, mode=lambda: mode)

    said = {path: orjson.loads(probes.answer(path).body).get("mode") for path in PROBE_PATHS}

    assert {path for path, told in said.items() if told == mode} == {"/health", "/__heartbeat__"}
    assert {told for path, told in said.items() if path not in {"/health", "/__heartbeat__"}} == {None}
    assert "mode" not in orjson.loads(answers_in(State.READY).answer("/health").body)


def test_another_path_has_none() -> None:
    with pytest.raises(KeyError):
        answers_in(State.READY).answer("/metrics")


@pytest.mark.parametrize(
    ("alias", "path"), [("/__lbheartbeat__", "/health/readiness"), ("/__heartbeat__", "/health")]
)
def test_an_alias_says_the_same(alias: str, path: str) -> None:
    answers = answers_in(State.DRAINING)

    assert answers.answer(alias) == answers.answer(path)


@pytest.mark.parametrize("path", ["/health/readiness", "/health"])
def test_a_refusal_says_when_to_ask_again_and_of_which_type_it_is(path: str) -> None:
    answer = answers_in(State.DRAINING).answer(path)

    assert answer.status == 503
    assert dict(answer.headers) == {"Content-Type": HEALTH_TYPE, "Cache-Control": "no-store", "Retry-After": "2"}


def test_health_says_who_answers() -> None:
    document = orjson.loads(answers_in(State.READY).answer("/health").body)

    identity = {"ip": "10.0.0.7", "node_name": "node-7", "pid": os.getpid(), "version": VERSION}
    assert document["instance"] == identity


def test_when_nothing_is_known_every_refusal_says_why() -> None:
    answers = ProbeAnswers(
        HealthMonitor(Lifecycle()), INSTANCE, is_alive=lambda: False, trouble=lambda: "the page is lost"
    )

    said = [
        orjson.loads(answers.answer(path).body)["output"]
        for path in ("/health/liveness", "/health/readiness", "/health")
    ]

    assert said == ["the page is lost"] * 3
