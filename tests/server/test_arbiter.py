"""The real master: drains, reloads, replaces, stops; no request is lost that need not be."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from app.server.forking import MANAGEMENT_NAME, WORKER_NAME
from tests.server.running import PATIENT_SECONDS, Answer, Server, children, end_next, running, start_next, until
from tests.server.tiny import ENOUGH
from tests.servers.base import backlog, stand_still


@contextmanager
def download(server: Server) -> Iterator[Future[Answer]]:
    """Have a download under way in a block that ends when it is told to; its future is the whole answer."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.get, "/slow?seconds=600")
        try:
            until(lambda: server.metric("photo_api_in_flight_requests") >= 1, "a download under way")
            yield answer
        finally:
            (server.folder / ENOUGH).touch()


def finished(server: Server, answer: Future[Answer]) -> Answer:
    """Let a download come to its end; return it."""
    (server.folder / ENOUGH).touch()
    return answer.result()


class Traffic:
    """Requests, one after another, each on a connection of its own, for the time of a block.

    Attributes:
        failures: What went wrong.
        pids: Who answered.
    """

    def __init__(self, server: Server) -> None:
        self.failures: list[str] = []
        self.pids: list[int] = []
        self._server = server
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def has_left(self, pids: Container[int]) -> bool:
        """Tell whether the last answer was one of somebody else."""
        return bool(self.pids) and self.pids[-1] not in pids

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                answer = self._server.get("/pid")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if answer.status == 200:
                    self.pids.append(int(answer.body))
                else:
                    self.failures.append(f"status {answer.status}")


# ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_draining_server_is_not_ready_and_serves_on_until_a_second_signal_ends_its_lame_duck(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="600") as server:
        server.process.send_signal(number)
        until(lambda: server.get("/health/readiness").status == 503, "readiness to be 503")

        answers = [server.get("/pid") for _ in range(20)]
        details = server.get("/health/readiness", management=True)
        server.process.send_signal(number)

        assert {answer.status for answer in answers} == {200}
        assert {answer.headers["Connection"] for answer in answers} == {"close"}
        assert (details.status, details.json()["state"]) == (503, "draining")
        assert server.exit_code() == 0
        assert f"{number.name} again: the lame duck ends" in server.messages()


def test_a_lame_duck_lasts_as_long_as_it_is_set_to(tmp_path: Path) -> None:
    with running(tmp_path, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="2") as server:
        began = time.monotonic()

        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0
        assert time.monotonic() - began >= 2


def test_what_is_in_flight_is_finished_and_the_management_process_goes_last(tmp_path: Path) -> None:
    with running(tmp_path, graceful_seconds=PATIENT_SECONDS) as server, download(server) as answer:
        workers, (management,) = server.pids(), server.management_pids()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: len(server.pids()) == 1, "the idle worker to end")

        in_flight = server.get("/health/detailed", management=True).json()["in_flight"]

        assert in_flight == 1
        assert (finished(server, answer).status, len(answer.result().body) >= 1_000) == (200, True)
        assert server.exit_code() == 0
        ended = [line["pid"] for line in server.log_lines() if line["message"].startswith("Worker exiting")]
        assert set(ended[:2]) == workers
        assert ended[2:] == [management]


def test_connections_that_the_kernel_has_completed_are_answered_in_a_stop(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, graceful_seconds=PATIENT_SECONDS) as server:
        (worker,) = server.pids()
        stand_still(worker)
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(server.get, "/pid") for _ in range(5)]
            until(lambda: backlog(server.public) == 5, "five connections in the backlog")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: server.said("SIGTERM: draining") == 1, "the drain")
            os.kill(worker, signal.SIGCONT)

            assert {answer.result().status for answer in waiting} == {200}
        assert server.exit_code() == 0


def test_a_request_that_never_ends_is_cut_at_the_graceful_time_out_and_the_log_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as server, download(server) as answer:
        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result()
        assert "requests were cut at the graceful time-out" in server.messages()


def test_a_worker_that_hangs_in_a_stop_is_killed_and_its_requests_are_counted_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server, download(server) as answer:
        (worker,) = server.pids()
        stand_still(worker)
        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result()
        assert f"Worker (pid:{worker}) does not end; it is killed, with 1 requests in flight" in server.messages()


def test_sigquit_ends_it_at_once(tmp_path: Path) -> None:
    with (
        running(
            tmp_path, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="600", graceful_seconds=PATIENT_SECONDS
        ) as server,
        download(server) as answer,
    ):
        server.process.send_signal(signal.SIGQUIT)

        assert server.exit_code() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result()


def test_a_worker_that_dies_in_the_lame_duck_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="600") as server:
        (worker,) = server.pids()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/health/readiness").status == 503, "readiness to be 503")

        os.kill(worker, signal.SIGKILL)
        until(lambda: bool(server.pids() - {worker}), "another worker")

        assert server.get("/pid").status == 200
        assert server.get("/health/readiness").status == 503
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_a_server_that_is_stopped_while_its_workers_start_ends_at_once(tmp_path: Path) -> None:
    with running(
        tmp_path,
        application="tests.server.tiny:build_when_told",
        is_awaited=False,
        PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="600",
        graceful_seconds=PATIENT_SECONDS,
    ) as server:
        until(lambda: len(server.pids()) == 2, "workers that start")

        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0


# ── reload ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reload_replaces_every_worker_and_loses_no_request(tmp_path: Path) -> None:
    with running(tmp_path, graceful_seconds=PATIENT_SECONDS) as server, download(server) as answer:
        before, management = server.pids(), server.management_pids()
        with Traffic(server) as traffic:
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.said("Reloaded:") == 1, "the reload")
            until(lambda: len(server.pids() - before) == 2 and len(traffic.pids) > 20, "new workers and traffic")
            until(lambda: traffic.has_left(before), "an answer of a new worker")

        assert traffic.failures == []
        assert finished(server, answer).status == 200
        until(lambda: len(server.pids()) == 2 and not server.pids() & before, "the end of the old workers")
        until(lambda: len(server.management_pids() - management) == 1, "a new management process")
        assert server.get("/health", management=True).status == 200


def test_new_workers_are_ready_before_an_old_one_is_asked_to_go(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with running(tmp_path, application="tests.server.tiny:build_when_told") as server:
        before = server.pids()
        (tmp_path / "go").unlink()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.pids()) == 4, "two workers that start beside the old ones")

        answered = set(_answers_for(server, seconds=1))
        assert answered <= before <= server.pids()
        (tmp_path / "go").touch()
        until(lambda: len(server.pids()) == 2 and not server.pids() & before, "the change")


def _has_said(server: Server, beginning: str, times: int) -> bool:
    return server.said(beginning) == times


def _answers_for(server: Server, seconds: float) -> Iterator[int]:
    """Ask for so long, one request after another; yield who answers."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        yield int(server.get("/pid").body)


def test_a_reload_takes_over_settings(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        (tmp_path / ".env").write_text("PHOTO_API_LOG__LEVEL=DEBUG\n", encoding="utf-8")
        assert "DEBUG" not in {line["severity_text"] for line in server.log_lines()}

        server.process.send_signal(signal.SIGHUP)

        until(lambda: "DEBUG" in {line["severity_text"] for line in server.log_lines()}, "lines of the new level")


def test_wrong_settings_are_refused_with_every_mistake_and_the_server_serves_on(tmp_path: Path) -> None:
    wrong = "PHOTO_API_SERVER__THREADS=none\nPHOTO_API_DATABASE__POOL_SIZE=0\n"
    with running(tmp_path) as server:
        before = server.pids()
        (tmp_path / ".env").write_text(wrong, encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "No reload: the server goes on with the settings it has" in server.messages(), "the refusal")

        mistakes = [str(line["mistake"]) for line in server.log_lines() if "mistake" in line]
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(server.pids()) == 2 and min(before) not in server.pids(), "another worker")

        assert sorted(mistake.partition(" ")[0] for mistake in mistakes) == [
            "PHOTO_API_DATABASE__POOL_SIZE",
            "PHOTO_API_SERVER__THREADS",
        ]
        (new,) = server.pids() - before
        until(lambda: int(server.get("/pid").body) == new, "an answer of the new worker, with the settings that held")


def test_a_database_that_is_not_migrated_is_a_mistake_of_a_reload_too(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server:
        (tmp_path / ".env").write_text("PHOTO_API_DATABASE__URL=sqlite:///var/other.db\n", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)

        until(lambda: "No reload: the server goes on with the settings it has" in server.messages(), "the refusal")
        assert any("python -m app migrate" in str(line) for line in server.log_lines())


def test_signals_to_reload_that_come_while_one_is_judged_are_one_more_reload(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server:
        before = server.pids()
        os.mkfifo(tmp_path / ".env")  # the judge waits until somebody writes
        for expected in range(1, 6):
            server.process.send_signal(signal.SIGHUP)
            until(partial(_has_said, server, "Handling signal: hup", expected), "it to be heard")
        with (tmp_path / ".env").open("w", encoding="utf-8"):
            (tmp_path / "env").touch()
            (tmp_path / "env").replace(tmp_path / ".env")  # who reads later need not wait
        until(lambda: server.said("Reloaded:") == 1, "the reload")
        until(lambda: len(server.pids()) == 1 and not server.pids() & before, "the end of the old worker")

        assert server.said("Hang up: Master") == 2
        assert server.get("/pid").status == 200


@pytest.mark.parametrize("between_seconds", [0, 2])
def test_a_stop_during_a_reload_is_heard(tmp_path: Path, between_seconds: float) -> None:
    with running(tmp_path) as server, download(server) as answer:
        server.process.send_signal(signal.SIGHUP)
        threading.Event().wait(between_seconds)
        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result()


def test_new_workers_that_cannot_start_leave_the_old_ones_at_work(tmp_path: Path) -> None:
    with running(tmp_path, application="tests.server.tiny:build_unless_told") as server:
        before = server.pids()
        (tmp_path / "stop").touch()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: sum("ended at its start" in message for message in server.messages()) >= 3, "failed starts")

        assert server.get("/pid").status == 200
        assert before <= server.pids()
        (tmp_path / "stop").unlink()
        until(lambda: len(server.pids()) == 2 and not server.pids() & before, "the reload to be done after all")


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_recycles_is_replaced_while_it_finishes(tmp_path: Path) -> None:
    with (
        running(tmp_path, workers=1, PHOTO_API_SERVER__MAX_REQUESTS="20", graceful_seconds=PATIENT_SECONDS) as server,
        download(server) as answer,
    ):
        (before,) = server.pids()
        with Traffic(server) as traffic:
            until(lambda: len(set(traffic.pids)) > 1, "an answer of another worker")
            was_there = before in server.pids()

        assert was_there
        assert traffic.failures == []
        assert finished(server, answer).status == 200
        until(lambda: before not in server.pids(), "the end of the old worker")


def test_a_worker_that_somebody_else_asks_to_go_finishes_and_is_replaced_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, graceful_seconds=PATIENT_SECONDS) as server, download(server) as answer:
        (before,) = server.pids()

        os.kill(before, signal.SIGTERM)
        until(lambda: server.get("/pid").body != str(before).encode(), "an answer of another worker")

        assert before in server.pids()
        assert finished(server, answer).status == 200
        until(lambda: before not in server.pids(), "its end")
        assert len(server.pids()) == 1


def test_requests_of_a_worker_that_had_to_be_killed_are_counted(tmp_path: Path) -> None:
    with running(tmp_path, workers=1) as server, download(server) as answer:
        (before,) = server.pids()
        stand_still(before)  # no sooner than it is asked to go would it be too late: it would count by itself
        server.process.send_signal(signal.SIGHUP)

        until(lambda: before not in server.pids(), "its end")

        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result()
        until(lambda: server.metric("photo_api_drain_timeout_total") == 1, "the master's count of it")


def test_a_server_whose_first_workers_cannot_start_ends_with_3(tmp_path: Path) -> None:
    with running(tmp_path, application="tests.server.tiny:build_nothing", is_awaited=False) as server:
        assert server.exit_code() == 3
        assert any("told to fail" in str(line) for line in server.log_lines())


@pytest.mark.parametrize("name", ["tests.server.tiny:nobody", "tests.server.nothing:build"])
def test_an_application_that_is_not_there_ends_the_server_and_says_so(tmp_path: Path, name: str) -> None:
    with running(tmp_path, application=name, is_awaited=False) as server:
        assert server.exit_code() in {3, 4}
        assert any(name.rpartition(".")[2].split(":")[i] in str(server.log_lines()) for i in (0, 1))


# ── the management process ───────────────────────────────────────────────────────────────────────────────────────


def test_a_management_process_that_dies_is_back_after_half_a_second_and_the_workers_do_not_notice(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as server:
        before, (management,) = server.pids(), server.management_pids()

        os.kill(management, signal.SIGKILL)
        until(lambda: bool(server.management_pids() - {management}), "another one")
        until(lambda: _is_served(server), "an answer of it")

        (told,) = [message for message in server.messages() if message.startswith("The management process")]
        # One that has lived for ten seconds, as on a slow machine, is started again at once.
        assert told.rpartition("the next one is started in ")[2] in {"0.5 s", "0.0 s"}
        assert server.pids() == before


def _is_served(server: Server) -> bool:
    try:
        return server.get("/metrics", management=True).status == 200
    except OSError:
        return False


def test_management_answers_when_all_workers_hang_and_calls_them_dead(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert server.get("/health/liveness", management=True).status == 200
        for pid in server.pids():
            stand_still(pid)
        try:
            until(lambda: server.get("/health/liveness", management=True).status == 503, "a verdict")

            health, details = (server.get(path, management=True) for path in ("/health", "/health/detailed"))

            assert (health.status, details.status) == (503, 503)
            assert details.json()["checks"]["workers"][0]["output"] == "no worker serves"
            assert server.get("/metrics", management=True).status == 200
        finally:
            for pid in server.pids():
                os.kill(pid, signal.SIGCONT)
        until(lambda: server.get("/health", management=True).status == 200, "health")


def test_a_management_process_that_cannot_start_ends_no_server_and_is_tried_again(tmp_path: Path) -> None:
    with running(tmp_path, management="tests.server.tiny:build_nothing", is_awaited=False) as server:
        until(lambda: server.said("The management process") >= 3, "failed starts")

        assert server.get("/pid").status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_each_process_holds_its_own_listener_and_not_the_others(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        workers, management = (
            {port for pid in pids for port in _listening(pid)} for pids in (server.pids(), server.management_pids())
        )

    assert workers == {server.public}
    assert management == {server.management}


def _listening(pid: int) -> set[int]:
    """Return the TCP ports that a process holds listening sockets of."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed while we looked
            held.add(str(link.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held]
    return {int(line[1].partition(":")[2], 16) for line in listening}


# ── upgrade ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_server_takes_over_beside_the_old_one_and_no_request_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS="600") as server:
        old = server.pids()
        for _ in range(10):
            server.get("/pid")
        counted = server.metric("photo_api_dedup_total")
        with Traffic(server) as traffic:
            new_master = start_next(server)
            try:
                until(lambda: len(children(new_master, WORKER_NAME)) == 2, "its workers")
                until(lambda: traffic.has_left(old), "an answer of one of them")
                until(lambda: server.said("Ready:") == 2, "it to be ready")
                server.process.send_signal(signal.SIGTERM)

                assert server.exit_code() == 0
                until(lambda: traffic.has_left(old), "only the new ones")
                assert server.get("/health/readiness").status == 200
                answered = len(traffic.pids)
                assert server.metric("photo_api_dedup_total") >= counted + answered
            finally:
                traffic.__exit__()
                end_next(new_master)

    assert traffic.failures == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.public)) != 0


def test_in_an_upgrade_management_answers_for_both_servers_whichever_is_asked(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with running(tmp_path, application="tests.server.tiny:build_when_told") as server:
        answers: list[tuple[int, bytes]] = []

        def ask() -> int:
            """Ask management and return who has answered."""
            for path in ("/health/liveness", "/health/readiness", "/health"):
                answer = server.get(path, management=True)
                answers.append((answer.status, answer.body))
            return int(answer.json()["instance"]["pid"])

        (tmp_path / "go").unlink()
        new_master = start_next(server)
        try:
            until(lambda: ask() in children(new_master, MANAGEMENT_NAME), "an answer of the one that starts")
            (tmp_path / "go").touch()
            until(lambda: bool(ask()) and server.said("Ready:") == 2, "it to be ready")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: bool(ask()) and server.process.poll() is not None, "the old one's end")
            ask()
        finally:
            end_next(new_master)

    assert [answer for answer in answers if answer[0] != 200] == []
