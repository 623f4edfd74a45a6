"""``mode``: what operators see and say of the mode through the page of the server that runs in the folder."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.main import main
from app.ops.host_board import DATABASE, MODES, READ_ONLY, HostBoard
from app.ops.mode_reasons import OperatorWord
from app.ops.modes import Changes
from app.ops.state import PAGE_NAME, StatePage
from app.server.state_folder import CHANGES_NAME, STATE_FOLDER, open_state_folder
from app.stability import Decision

RECORD = STATE_FOLDER / CHANGES_NAME
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PHOTO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[StatePage]:
    """The page of a server: this process has its lock."""
    descriptors = Path("/proc/self/fd")
    before = {path.name for path in descriptors.iterdir()}
    open_state_folder(STATE_FOLDER, {})
    yield StatePage(tmp_path / STATE_FOLDER / PAGE_NAME)
    for path in [path for path in descriptors.iterdir() if path.name not in before]:
        if path.exists() and path.resolve().name == "lock":
            os.close(int(path.name))


@pytest.fixture
def modes(page: StatePage) -> HostBoard:
    """The board of modes as a worker has it."""
    return HostBoard(page, prefix=MODES, now=lambda: 1_777_896_000.0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = main(["mode", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return ran


def shown(run: Run) -> Any:
    code, out, error = run("show", "--json")
    assert (code, error) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("arguments", [["show"], ["set", "read-only"], ["set", "normal"]])
def test_without_a_server_it_says_what_to_do(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    code, out, error = run(*arguments)

    assert (code, out) == (1, "")
    assert error.startswith("No server runs in this folder. Start one (python -m app serve)")
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_which_nothing_was_said_is_in_normal(run: Run, modes: HostBoard) -> None:
    assert run("show") == (0, "normal\n", "")
    assert shown(run) == {"mode": "normal", "reasons": []}
    assert modes.entries() == {}


def test_what_is_set_holds_for_the_workers_and_is_recorded_with_who_and_why(run: Run, modes: HostBoard) -> None:
    worker = OperatorWord(modes)

    code, out, error = run("set", "read-only", "--for", "600", "--reason", "the store is being moved")

    reason = worker.look()
    (line,) = [json.loads(text) for text in RECORD.read_text(encoding="utf-8").splitlines()]
    assert (code, error) == (0, "")
    assert out == "normal -> read-only. It holds in every worker with its next request.\n"
    assert reason is not None
    assert (reason.said, reason.by) == ("the store is being moved", line["by"])
    assert reason.ends_in_seconds == pytest.approx(600, abs=30)
    assert {name: line[name] for name in ("mode", "before", "after", "ends_in_seconds", "reason")} == {
        "mode": "operator",
        "before": "normal",
        "after": "read_only",
        "ends_in_seconds": 600.0,
        "reason": "the store is being moved",
    }


def test_normal_takes_it_back_and_says_what_holds_by_itself(run: Run, modes: HostBoard) -> None:
    modes.decide(DATABASE, Decision(1, READ_ONLY, 0, math.inf, DATABASE))
    run("set", "read-only")

    code, out, _ = run("set", "normal")

    assert code == 0
    assert out.splitlines() == [
        "read-only -> normal. It holds in every worker with its next request.",
        "This holds by itself: read_only by database since 2026-05-04T12:00:00Z (database)",
    ]
    OperatorWord(modes).refuse(Changes.RECORDS, None)


def test_to_say_normal_where_nobody_has_said_anything_changes_nothing(run: Run, modes: HostBoard) -> None:
    assert run("set", "normal") == (0, "No operator has said anything else; nothing was changed.\n", "")
    assert json.loads(run("set", "normal", "--json")[1]) == {"before": "normal", "mode": "normal", "changed": False}
    assert not RECORD.exists()
    assert modes.entries() == {}


def test_a_time_goes_with_read_only_alone(run: Run, modes: HostBoard) -> None:
    code, out, error = run("set", "normal", "--for", "5")

    assert (code, out) == (2, "")
    assert error == "--for goes with read-only only: normal holds until you say otherwise.\n"
    assert modes.entries() == {}


@pytest.mark.parametrize("arguments", [["degraded"], ["read_only"], ["read-only", "--for", "0"], []])
def test_wrong_usage_is_said_and_nothing_is_changed(
    modes: HostBoard, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["mode", "set", *arguments])

    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert modes.entries() == {}


def test_everything_that_stands_on_the_page_is_shown_the_gravest_first(
    run: Run, modes: HostBoard, page: StatePage
) -> None:
    until = time.monotonic() + 4000
    HostBoard(page, now=lambda: 1_777_896_000.0).decide(
        "storage_write", Decision(1, "open", 1, until, "breaker", "failure_rate")
    )
    degraded = run("show")[1]
    modes.decide(DATABASE, Decision(1, READ_ONLY, 0, math.inf, DATABASE))
    modes.decide("operator", Decision(1, READ_ONLY, 0, math.inf, "ada@cli", "moving\x1b[31m"))

    code, out, _ = run("show")

    lines = out.splitlines()
    assert degraded.splitlines()[0] == "degraded"
    assert (code, lines[0]) == (0, "read_only")
    assert lines[1] == "read_only by operator since 2026-05-04T12:00:00Z (ada@cli: moving?[31m)"
    assert lines[2] == "read_only by database since 2026-05-04T12:00:00Z (database)"
    assert lines[3].startswith("degraded by storage_writes since 2026-05-04T12:00:00Z, ends in ")
    assert [reason["name"] for reason in shown(run)["reasons"]] == ["operator", "database", "storage_writes"]


def test_what_has_ended_is_not_shown(run: Run, modes: HostBoard, page: StatePage) -> None:
    modes.decide("operator", Decision(1, READ_ONLY, 0, time.monotonic() - 1, "ada@cli"))
    modes.decide(DATABASE, Decision(2, "normal", 0, math.inf, DATABASE))
    HostBoard(page).decide("storage_write", Decision(2, "closed", 0, math.inf))

    assert shown(run) == {"mode": "normal", "reasons": []}


@pytest.mark.parametrize("arguments", [["show"], ["set", "read-only"]])
def test_a_page_that_is_lost_is_said_to_be(run: Run, page: StatePage, tmp_path: Path, arguments: list[str]) -> None:
    assert page.entries() == {}
    (tmp_path / STATE_FOLDER / PAGE_NAME).unlink()

    code, out, error = run(*arguments)

    assert (code, out) == (1, "")
    assert "shared page cannot be read or written" in error
    assert not RECORD.exists()


def test_the_help_says_what_each_mode_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["mode", "set", "--help"])

    text = capsys.readouterr().out
    assert "refuse every change with 503" in text
    assert "take back what was said" in text
