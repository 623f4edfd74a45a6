"""The life of a process goes forward only, and its in-flight counter is exact."""

from __future__ import annotations

import threading

import pytest

from app.ops.lifecycle import Lifecycle, State


class Gauge:
    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)


def test_states_go_forward_only_and_listeners_hear_each_change_once() -> None:
    lifecycle = Lifecycle()
    heard: list[State] = []
    lifecycle.subscribe(heard.append)

    moved = [lifecycle.advance(state) for state in (State.READY, State.READY, State.STOPPED, State.DRAINING)]

    assert moved == [True, False, True, False]
    assert heard == [State.READY, State.STOPPED]
    assert lifecycle.state is State.STOPPED


def test_in_flight_is_exact_over_threads() -> None:
    gauge = Gauge()
    lifecycle = Lifecycle(gauge)
    gate = threading.Barrier(9)

    def work() -> None:
        for _ in range(200):
            with lifecycle.request():
                pass
        with lifecycle.request():
            gate.wait(10)
            gate.wait(10)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.wait(10)

    assert lifecycle.in_flight == 8
    gate.wait(10)
    assert lifecycle.wait_idle(10)
    for thread in threads:
        thread.join()
    assert lifecycle.in_flight == 0
    assert gauge.values[-1] == 0


def test_waiting_for_idle_ends_at_its_time_limit() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter()

    assert not lifecycle.wait_idle(0.01)


def test_a_request_that_raises_is_counted_out() -> None:
    lifecycle = Lifecycle()

    with pytest.raises(KeyError), lifecycle.request():
        raise KeyError

    assert lifecycle.in_flight == 0
