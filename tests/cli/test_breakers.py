"""``breakers``: what operators see and set through the page of the server that runs in the folder."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import breakers
from app.cli.main import main
from app.ops.host_board import REASON_BYTES_MAX, HostBoard
from app.ops.state import PAGE_NAME, VARIABLE, StatePage
from app.server.state_folder import CHANGES_NAME, STATE_FOLDER, open_state_folder
from app.stability import CircuitBreaker, Decision, State
from tests.fakes.clocks import HandClock
from tests.server.running import running

FORCED = Decision(1, "forced_open", 0, math.inf, "ada@cli", "the store is being moved")
STORAGE = "storage_read"
RECORD = STATE_FOLDER / CHANGES_NAME


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PHOTO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[HostBoard]:
    """The board of a server: this process has its lock."""
    descriptors = Path("/proc/self/fd")
    before = {path.name for path in descriptors.iterdir()}
    open_state_folder(STATE_FOLDER, {})
    yield HostBoard(StatePage(tmp_path / STATE_FOLDER / PAGE_NAME), now=lambda: 1_777_896_000.0)
    for path in [path for path in descriptors.iterdir() if path.name not in before]:
        if path.exists() and path.resolve().name == "lock":
            os.close(int(path.name))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = main(["breakers", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return ran


Run = Callable[..., tuple[int, str, str]]


def test_the_states_are_those_of_the_breaker() -> None:
    assert tuple(state.value for state in State) == breakers.STATES
    assert all(re.search(rf"^  {state} ", breakers._STATES_TEXT, re.MULTILINE) for state in breakers.STATES)


@pytest.mark.parametrize("arguments", [["list"], ["show", "x"], ["set", "x", "closed"], ["reset", "x"]])
def test_without_a_server_it_says_what_to_do(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    code, out, error = run(*arguments)

    assert (code, out) == (1, "")
    assert (
        error == "No server runs in this folder. Start one (python -m app serve), or go to the folder it runs in.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_user_is_said_to_be_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr("app.server.state_folder.server_runs", refused)

    assert run("list") == (1, "", "var/run/state cannot be read. Run this as the server's user.\n")


def test_the_list_has_every_breaker_in_aligned_columns(run: Run, board: HostBoard) -> None:
    board.announce(["mail"])
    board.decide(STORAGE, FORCED)

    code, out, error = run("list")

    lines = out.splitlines()
    assert (code, error) == (0, "")
    assert lines[0].split() == ["name", "state", "ends", "since", "by", "reason"]
    (forced,) = [line for line in lines if line.startswith(STORAGE)]
    assert forced[lines[0].index("since") :] == "2026-05-04T12:00:00Z  ada@cli  the store is being moved"
    (mail,) = [line for line in lines if line.startswith("mail")]
    assert mail.split() == ["mail", "closed", "-", "-", "-", "-"]
    assert mail.index("closed") == forced.index("forced_open") == lines[0].index("state")


def test_configured_breakers_are_listed_before_any_of_them_was_used(run: Run, board: HostBoard) -> None:
    _, out, _ = run("list", "--json")

    listed = {row["name"]: row["state"] for row in json.loads(out)}
    assert listed["storage_write"] == "closed"
    assert board.entries() == {}


def test_a_wrong_configuration_hinders_nobody(run: Run, board: HostBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTO_API_PROFILE", "nonsense")

    empty = run("list")
    board.decide("mail", FORCED)
    began = time.monotonic()
    code, _, _ = run("set", "mail", "open")

    assert empty == (0, "The server that runs here has no circuit breakers.\n", "")
    decision = board.read("mail")
    assert decision is not None
    assert code == 0
    assert 60 <= decision.until - began <= 60 + time.monotonic() - began


def test_one_breaker_as_json_says_where_it_can_go(run: Run, board: HostBoard) -> None:
    board.decide("mail", Decision(4, "open", 2, time.monotonic() + 100, "breaker"))

    _, out, _ = run("show", "mail", "--json")

    row: dict[str, Any] = json.loads(out)
    assert 50 < row.pop("ends_in_seconds") <= 100
    assert row == {
        "name": "mail",
        "state": "open",
        "since": "2026-05-04T12:00:00Z",
        "by": "breaker",
        "reason": None,
        "openings": 2,
        "can_be_set_to": [state for state in breakers.STATES if state != "open"],
    }


def test_one_breaker_for_people(run: Run, board: HostBoard) -> None:
    board.decide("mail", Decision(4, "open", 2, time.monotonic() - 1, "ada@cli", "a\x1b[2Jb"))

    _, out, _ = run("show", "mail")

    facts = dict(line.split(maxsplit=1) for line in out.splitlines()[:6])
    assert facts == {
        "name": "mail",
        "state": "open",
        "ends": "at a call",
        "since": "2026-05-04T12:00:00Z",
        "by": "ada@cli",
        "reason": "a?[2Jb",
    }
    assert "2 since it was last closed" in out


def test_a_state_is_set_with_who_and_why(run: Run, board: HostBoard) -> None:
    code, out, _ = run("set", STORAGE, "forced_open", "--reason", " the store\nis being moved ")

    decision = board.read(STORAGE)
    assert code == 0
    assert out == f"{STORAGE}: closed -> forced_open. It holds in every worker with its next call.\n"
    assert decision is not None
    assert decision == Decision(1, "forced_open", 0, math.inf, decision.by, "the store is being moved")
    assert decision.by.endswith("@cli")


def test_a_user_without_a_name_is_a_number(run: Run, board: HostBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)

    run("set", STORAGE, "disabled")

    decision = board.read(STORAGE)
    assert decision is not None
    assert decision.by == "4000000000@cli"


def test_it_opens_for_the_time_that_is_said_and_keeps_count_of_its_openings(run: Run, board: HostBoard) -> None:
    board.decide(STORAGE, Decision(3, "half_open", 2, math.inf))

    began = time.monotonic()
    run("set", STORAGE, "open", "--for", "300")
    first = board.read(STORAGE)
    run("set", STORAGE, "open", "--for", "900")
    second = board.read(STORAGE)
    took = time.monotonic() - began

    assert first is not None
    assert second is not None
    assert (first.era, first.state, first.attempt) == (4, "open", 2)
    assert 300 <= first.until - began <= 300 + took
    assert second.era == 5
    assert 900 <= second.until - began <= 900 + took


@pytest.mark.parametrize(("state", "seconds"), [("open", 10), ("half_open", 60)])
def test_without_a_time_its_own_holds(run: Run, board: HostBoard, state: str, seconds: int) -> None:
    board.decide(STORAGE, Decision(1, "disabled", 0, math.inf))

    began = time.monotonic()
    run("set", STORAGE, state)
    took = time.monotonic() - began

    decision = board.read(STORAGE)
    assert decision is not None
    assert seconds <= decision.until - began <= seconds + took


def test_closing_begins_the_count_of_openings_anew(run: Run, board: HostBoard) -> None:
    board.decide(STORAGE, Decision(3, "open", 2, math.inf))

    run("set", STORAGE, "closed")

    decision = board.read(STORAGE)
    assert decision is not None
    assert (decision.era, decision.state, decision.attempt, decision.until) == (4, "closed", 0, math.inf)


@pytest.mark.parametrize("state", ["forced_open", "open"])
def test_the_state_it_is_in_is_no_change(run: Run, board: HostBoard, state: str) -> None:
    before = Decision(1, state, 0, math.inf, "ada@cli")
    board.decide(STORAGE, before)

    code, out, _ = run("set", STORAGE, state)
    _, as_json, _ = run("set", STORAGE, state, "--json")

    assert (code, out) == (0, f"{STORAGE} is {state} already; nothing was changed.\n")
    assert json.loads(as_json) == {"name": STORAGE, "before": state, "state": state, "changed": False}
    assert board.read(STORAGE) == before


def test_a_reset_gives_a_closed_one_fresh_figures_too(run: Run, board: HostBoard) -> None:
    code, out, _ = run("reset", STORAGE, "--json", "--reason", "tried it by hand")

    decision = board.read(STORAGE)
    assert (code, json.loads(out)) == (0, {"name": STORAGE, "before": "closed", "state": "closed", "changed": True})
    assert decision is not None
    assert (decision.era, decision.state, decision.reason) == (1, "closed", "tried it by hand")


def test_what_cannot_be_is_refused_with_what_can(run: Run, board: HostBoard) -> None:
    board.decide(STORAGE, Decision(1, "metrics_only", 0, math.inf, "ada@cli"))

    code, out, error = run("set", STORAGE, "open")

    assert (code, out) == (1, "")
    assert error == (
        f"{STORAGE} is metrics_only; from there it cannot go to open, only to: closed, disabled, forced_open, "
        "forced_half_open\n"
    )
    assert board.read(STORAGE) == Decision(1, "metrics_only", 0, math.inf, "ada@cli")


def test_a_name_that_does_not_exist_is_answered_with_the_nearest(run: Run, board: HostBoard) -> None:
    near = run("show", "storage_raed")
    far = run("reset", "zzz")

    assert near == (1, "", f"There is no breaker storage_raed; did you mean {STORAGE}?\n")
    assert far[0] == 1
    assert far[2].startswith("There is no breaker zzz; there are: ")
    assert board.entries() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", STORAGE, "ajar"],
        ["set", STORAGE, "forced_open", "--for", "5"],
        ["set", STORAGE, "open", "--for", "0"],
        ["set", STORAGE, "open", "--for", "nan"],
        ["set", STORAGE, "open", "--for", "90000"],
        ["set", STORAGE, "open", "--for", "10m"],
        ["set", STORAGE, "open", "--reason", "r" * 201],
        ["reset", STORAGE, "--reason", "ö" * 101],
        [],
    ],
)
def test_wrong_usage_is_exit_2_and_changes_nothing(
    board: HostBoard, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["breakers", *arguments])
    except SystemExit as ended:
        code = ended.code

    assert code == 2
    assert capsys.readouterr().err
    assert board.entries() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "10m"], "'10m' is no number of seconds; give one that is more than 0 and at most 86400"),
        (["--reason", "ö" * 101], "argument --reason: 202 bytes are too many; it has room for 200"),
    ],
)
def test_wrong_usage_is_said_with_what_would_be_right(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["breakers", "set", STORAGE, "open", *arguments])

    assert message in capsys.readouterr().err


def test_the_help_says_how_long_a_reason_may_be_and_that_much_is_kept(
    run: Run, board: HostBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    run("reset", STORAGE, "--reason", "r" * REASON_BYTES_MAX)
    with pytest.raises(SystemExit):
        main(["breakers", "reset", "--help"])

    decision = board.read(STORAGE)
    assert decision is not None
    assert decision.reason == "r" * REASON_BYTES_MAX
    assert f"up to {REASON_BYTES_MAX} bytes" in " ".join(capsys.readouterr().out.split())


def recorded() -> list[dict[str, Any]]:
    """Return the record of changes."""
    return [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]


def test_every_change_is_recorded_with_who_and_why_before_and_after_though_no_worker_sees_it(
    run: Run, board: HostBoard
) -> None:
    run("set", STORAGE, "open", "--for", "300", "--reason", "für\u2028jetzt")
    run("set", STORAGE, "open")
    run("set", STORAGE, "metrics_only")
    run("set", STORAGE, "half_open", "--reason", "refused")
    run("reset", STORAGE)

    lines = recorded()
    last = board.read(STORAGE)
    assert last is not None
    assert [(line["breaker"], line["before"], line["after"], line["reason"], line["era"]) for line in lines] == [
        (STORAGE, "closed", "open", "für jetzt", 1),
        (STORAGE, "open", "metrics_only", "", 2),
        (STORAGE, "metrics_only", "closed", "", 3),
    ]
    assert {line["by"] for line in lines} == {last.by}
    assert lines[0]["ends_in_seconds"] == pytest.approx(300, abs=30)
    assert lines[1]["ends_in_seconds"] is None
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"]) for line in lines)
    assert RECORD.stat().st_mode & 0o777 == 0o600


def test_a_record_that_cannot_be_written_is_a_warning_and_the_change_holds(run: Run, board: HostBoard) -> None:
    RECORD.mkdir()

    code, out, error = run("set", STORAGE, "forced_open")

    decision = board.read(STORAGE)
    assert (code, out.split(".")[0]) == (0, f"{STORAGE}: closed -> forced_open")
    assert error == "warning: var/run/state/changes.ndjson does not record this: Is a directory\n"
    assert decision is not None
    assert decision.state == "forced_open"


def test_a_page_that_is_lost_is_said_to_be(run: Run, board: HostBoard) -> None:
    page = STATE_FOLDER / PAGE_NAME
    page.write_bytes(b"noise")

    code, _, error = run("list")

    assert code == 1
    assert error.startswith("The workers' shared page cannot be read or written; each worker acts for itself.")
    assert page.read_bytes() == b"noise"
    assert board.read("x") is None


def test_a_decision_made_meanwhile_is_followed(run: Run, board: HostBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    really = HostBoard.decide
    raced: list[Decision | None] = []

    def decide(self: HostBoard, name: str, decision: Decision) -> Decision | None:
        if len(raced) < 2:
            raced.append(really(board, name, Decision(len(raced) + 1, "open", 1, math.inf)))
        return really(self, name, decision)

    monkeypatch.setattr(HostBoard, "decide", decide)
    code, out, _ = run("set", STORAGE, "forced_open")

    decision = board.read(STORAGE)
    assert (code, out.split(".")[0]) == (0, f"{STORAGE}: open -> forced_open")
    assert decision is not None
    assert (decision.era, decision.state) == (3, "forced_open")


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_cannot_be_written_is_said(
    run: Run, board: HostBoard, monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    monkeypatch.setattr(HostBoard, "decide", lambda *_: None if is_lost else FORCED)

    code, _, error = run("set", STORAGE, "disabled")

    assert code == 1
    assert "othing was changed" in error
    assert board.entries() == {}


def test_a_breaker_follows_what_is_set_within_a_tenth_of_a_second(run: Run, board: HostBoard) -> None:
    clock = HandClock()
    breaker = CircuitBreaker(STORAGE, board=board, clock=clock)

    run("set", STORAGE, "forced_open", "--reason", "moving")
    refused, forced = breaker.try_acquire(), breaker.state
    run("reset", STORAGE)
    clock.advance(0.1)

    assert (refused, forced) == (None, State.FORCED_OPEN)
    assert breaker.state is State.CLOSED


def test_a_real_server_is_found_in_its_folder_and_its_states_outlive_it(run: Run, tmp_path: Path) -> None:
    with running(tmp_path):
        code, _, error = run("set", STORAGE, "forced_open", "--reason", "moving")
    stopped, _, _ = run("list")
    with running(tmp_path):
        _, out, _ = run("show", STORAGE, "--json")

    assert (code, error, stopped) == (0, "", 1)
    assert (json.loads(out)["state"], json.loads(out)["reason"]) == ("forced_open", "moving")
    assert VARIABLE not in os.environ
