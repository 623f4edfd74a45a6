"""The metrics of a real server, whichever of its processes dies, retires or finds rubbish among its files."""

from __future__ import annotations

import gzip
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.server.forking import MANAGEMENT_NAME
from tests.server.running import Server, children, end_next, running, start_next, stopped, until

RISING = {"counter", "histogram"}
THREADS = "photo_api_process_threads"
STARTS = "photo_api_process_start_time_seconds"


def samples(server: Server, kinds: set[str]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = server.get("/metrics", management=True).body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in kinds
        for sample in family.samples
    }


def processes(server: Server) -> set[str]:
    return {
        dict(labels)["process"] for name, labels in samples(server, {"gauge"}) if name == "photo_api_process_threads"
    }


def count(server: Server, requests: int) -> None:
    for _ in range(requests):
        assert server.get("/pid").status == 200


def files(server: Server) -> list[Path]:
    return list((server.folder / "var" / "run" / "metrics").glob("server-*/*.values"))


def replaced(server: Server, pids: set[int]) -> bool:
    return len(server.pids()) == 2 and not pids & server.pids()


def test_no_total_falls_whoever_dies(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        seen = samples(server, RISING)
        for round_number in range(3):
            count(server, 5)
            victims = server.pids() if round_number % 2 else {min(server.pids())}
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            until(partial(replaced, server, victims), "other workers")
            count(server, 5)

            # What is told of a process by itself is gone until another has its number.
            until(lambda: seen.keys() <= samples(server, RISING).keys(), "every series")  # noqa: B023  # called at once
            now = samples(server, RISING)

            assert {
                series: (value, now.get(series)) for series, value in seen.items() if now.get(series, -1) < value
            } == {}
            seen = now
        assert server.metric("photo_api_dedup_total") == 30
        until(lambda: len(files(server)) == 3, "files of two workers and the management process")


def test_the_management_process_starts_anew_and_the_totals_do_not(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server:
        count(server, 7)
        before = server.management_pids()

        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: bool(server.management_pids() - before), "another management process")

        until(lambda: _answers(server), "its answer")
        assert server.metric("photo_api_dedup_total") == 7


def _answers(server: Server) -> bool:
    try:
        return server.get("/metrics", management=True).status == 200
    except OSError:
        return False


def test_a_reload_keeps_the_totals_and_gives_the_new_workers_the_old_names(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        count(server, 6)
        before = server.pids()

        server.process.send_signal(signal.SIGHUP)
        until(partial(replaced, server, before), "new workers alone")

        assert server.metric("photo_api_dedup_total") == 6
        until(
            lambda: (
                sorted(name.partition("-")[0] for name in processes(server))
                == ["management", "master", "worker", "worker"]
            ),
            "four processes",
        )
        assert server.metric("photo_api_db_pool_max_connections") == 20


def test_no_counter_falls_while_the_management_processes_of_two_servers_answer_in_turn(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        count(server, 5)
        seen = samples(server, RISING)
        new_master = start_next(server)
        try:
            until(lambda: len(processes(server)) == 8, "the processes of both servers")
            managers = (server.management_pids() | children(new_master, MANAGEMENT_NAME)) - {new_master}
            fallen, starts = [], set()
            for silent in [*managers] * 3:
                with stopped(silent):
                    now = samples(server, RISING)
                    gauges = samples(server, {"gauge"})
                fallen += [series for series, value in seen.items() if now.get(series, -1) < value]
                seen = now
                starts |= {(labels, value) for (name, labels), value in gauges.items() if name == STARTS}
            server.process.send_signal(signal.SIGTERM)
            assert server.exit_code() == 0
            until(lambda: len(processes(server)) == 4, "the new server's alone")
            last = samples(server, RISING)
        finally:
            end_next(new_master)

    assert len(managers) == 2
    assert fallen == []
    assert len(starts) == 8, "every process has one name, whoever is asked"
    assert {series for series, value in last.items() if value < seen.get(series, 0)} == set()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_each_process_has_its_figures_and_a_new_worker_takes_a_dead_ones_name(server: Server) -> None:
    names = {"master-1", "management-1", "worker-1", "worker-2"}
    until(lambda: processes(server) == names, "the figures of all")
    before = samples(server, {"gauge"})
    for name in names:
        assert before["photo_api_process_resident_memory_bytes", (("process", name),)] > 5_000_000
        assert before["photo_api_process_open_fds", (("process", name),)] > 3
    victim = min(server.pids())

    os.kill(victim, signal.SIGKILL)
    until(partial(replaced, server, {victim}), "another worker")
    until(lambda: server.metric("photo_api_db_pool_max_connections") == 20, "its file")

    now = samples(server, {"gauge"})
    began = [labels for name, labels in before if name == STARTS]
    changed = [labels for labels in began if before[STARTS, labels] != now[STARTS, labels]]
    assert processes(server) == names
    assert len(changed) == 1, "one of the workers is another, under the same name"


def test_workers_that_were_stopped_in_their_tracks_are_not_ready(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        until(lambda: server.metric("photo_api_ready") == 1, "both workers to be ready")
        with stopped(*server.pids()):
            until(lambda: server.metric("photo_api_workers", state="silent") == 2, "silence")
            seen = server.metric("photo_api_ready")

        assert seen == 0
        until(lambda: server.metric("photo_api_ready") == 1, "both workers to be ready again")


def test_rubbish_among_the_files_is_counted_and_fails_no_scrape(server: Server) -> None:
    count(server, 4)
    counted = server.metric("photo_api_dedup_total")
    folder = files(server)[0].parent

    (folder / "worker-999999999-1-0123abcd.values").write_bytes(b"rubbish" * 1000)
    (folder / "worker-999999998-1-0123abcd.values").write_bytes(b"")
    (folder / "counter_17.db").write_bytes(b"rubbish")

    for _ in range(3):
        assert server.metric("photo_api_metric_files_skipped_total") == 2
        assert server.metric("photo_api_dedup_total") == counted
    count(server, 1)
    assert server.metric("photo_api_dedup_total") == counted + 1


def test_openmetrics_and_compression_are_given_to_who_asks(server: Server) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}

    answer = server.get("/metrics", management=True, headers=accept)

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body).endswith(b"# EOF\n")
