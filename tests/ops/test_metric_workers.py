"""Every worker is ready when as many as there should be serve, say so, and lately gave a sign of life."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from app.ops.lifecycle import HostReport, Phase, ServerWord, State, WorkerWord
from app.ops.metric_workers import WorkerCollector
from tests.fakes.clocks import HandClock

MASTER, OTHER = 7, 70


class World:
    """A server of two workers that are ready."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.servers = [ServerWord(MASTER, State.READY, 0.0)]
        self.workers = [self.worker(8), self.worker(9)]
        self.is_lost = False
        self.said: float | None = 1.0

    def worker(self, pid: int, phase: Phase = Phase.READY, *, master: int = MASTER) -> WorkerWord:
        state = State.STARTING if phase is Phase.BOOTING else State.READY
        return WorkerWord(pid, master, state, phase, 0, 0, 0.0, self.clock.monotonic())

    def look(self) -> HostReport | None:
        return None if self.is_lost else HostReport(tuple(self.servers), tuple(self.workers))

    def collected(self, living: Iterable[int] = ()) -> dict[str, float]:
        families: list[Metric] = [GaugeMetricFamily("x_level", "A level.", value=3)]
        if self.said is not None:
            families.append(GaugeMetricFamily("x_ready", "What they say.", value=self.said))
        collector = WorkerCollector(
            self.look, master_pid=MASTER, wanted=2, fresh_seconds=5.0, now=self.clock.monotonic
        )
        samples = [sample for family in collector.collect(families, set(living), "x_") for sample in family.samples]
        found = {sample.labels.get("state", sample.name): sample.value for sample in samples}
        assert len(found) == len(samples), "no name comes twice"
        assert found.pop("x_level") == 3
        return found

    def ready(self, living: Iterable[int] = ()) -> float:
        return self.collected(living)["x_ready"]


@pytest.fixture
def world() -> World:
    return World()


def test_all_are_ready_when_they_serve_and_say_so(world: World) -> None:
    assert world.collected([8, 9]) == {"x_ready": 1, "starting": 0, "serving": 2, "finishing": 0, "silent": 0}


@pytest.mark.parametrize("silent", [1, 2])
def test_a_worker_without_a_sign_of_life_is_not_ready_whatever_it_said(world: World, silent: int) -> None:
    world.clock.advance(5.1)
    world.workers[silent:] = [world.worker(worker.pid) for worker in world.workers[silent:]]

    found = world.collected([8, 9])

    assert (found["x_ready"], found["silent"], found["serving"]) == (0, silent, 2 - silent)


def test_a_sign_of_life_may_be_five_seconds_old(world: World) -> None:
    world.clock.advance(5.0)

    assert world.ready([8, 9]) == 1


def test_one_too_few_is_not_all(world: World) -> None:
    del world.workers[0]

    assert world.ready([9]) == 0


def test_a_worker_that_starts_is_told_and_makes_all_unready(world: World) -> None:
    world.workers.append(world.worker(10, Phase.BOOTING))

    found = world.collected([8, 9])

    assert (found["x_ready"], found["starting"]) == (0, 1)


def test_a_worker_that_counts_and_has_not_said_anything_yet_is_not_ready(world: World) -> None:
    assert world.ready([8, 9, 10]) == 0


def test_who_serves_until_another_does_is_ready_and_who_finishes_does_not_matter(world: World) -> None:
    world.workers[0] = world.worker(8, Phase.RETIRING)
    world.workers.append(replace(world.worker(10, Phase.STOPPING), beat_at=world.clock.monotonic() - 60))
    world.workers.append(world.worker(11, Phase.STOPPING))

    found = world.collected([8, 9, 10, 11])

    assert (found["x_ready"], found["serving"], found["finishing"], found["silent"]) == (1, 2, 1, 1)


def test_what_a_worker_says_of_its_own_checks_counts_too(world: World) -> None:
    world.said = 0.0

    assert world.ready([8, 9]) == 0


def test_without_any_file_the_page_alone_decides(world: World) -> None:
    world.said = None

    assert world.ready() == 1


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING, State.STOPPED])
def test_a_server_that_starts_or_stops_is_not_ready(world: World, state: State) -> None:
    world.servers = [ServerWord(MASTER, state, 0.0)]

    assert world.ready([8, 9]) == 0


def test_a_lost_page_is_not_ready_and_no_worker_is_counted(world: World) -> None:
    world.is_lost = True

    assert world.collected([8, 9]) == {"x_ready": 0}


def test_the_workers_of_another_server_matter_only_when_they_count_in_the_same_folder(world: World) -> None:
    world.workers.append(world.worker(80, Phase.BOOTING, master=OTHER))

    found = world.collected([8, 9])

    assert (found["x_ready"], found["starting"]) == (1, 0)
    assert world.ready([8, 9, 80]) == 0
