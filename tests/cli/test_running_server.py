"""What commands share that act through a server's page: who says what, for how long, and where it is recorded."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import pytest

from app.admin.schemas import FOR_SECONDS_MAX as ROUTES_SECONDS_MAX
from app.cli import running_server
from app.ops.host_board import REASON_BYTES_MAX
from app.server.state_folder import CHANGES_NAME, STATE_FOLDER


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_limits_are_those_of_the_page_and_of_the_routes() -> None:
    assert running_server.REASON_BYTES_MAX == REASON_BYTES_MAX
    assert running_server.FOR_SECONDS_MAX == ROUTES_SECONDS_MAX


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.5", 0.5), ("86400", 86_400.0)])
def test_a_number_of_seconds_is_taken(text: str, seconds: float) -> None:
    assert running_server.seconds_argument(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "86401", "nan", "inf", "ten", "10m", ""])
def test_what_is_no_number_of_seconds_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="--for 600"):
        running_server.seconds_argument(text)


def test_a_reason_is_one_line_that_fits() -> None:
    assert running_server.reason_argument("  the store\n is being   moved ") == "the store is being moved"
    with pytest.raises(argparse.ArgumentTypeError, match="202 bytes are too many"):
        running_server.reason_argument("ö" * 101)


def test_who_says_so_is_a_login_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    named = running_server.operator()
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)

    assert named.endswith("@cli")
    assert running_server.operator() == "4000000000@cli"


def test_a_change_is_a_line_and_one_that_cannot_be_written_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    running_server.record(mode="operator", after="normal")
    warned = capsys.readouterr().err
    STATE_FOLDER.mkdir(parents=True)
    running_server.record(mode="operator", after="read_only")

    lines = [json.loads(line) for line in (STATE_FOLDER / CHANGES_NAME).read_text(encoding="utf-8").splitlines()]
    assert warned.startswith("warning: var/run/state/changes.ndjson does not record this: ")
    assert [(line["mode"], line["after"]) for line in lines] == [("operator", "read_only")]
    assert lines[0]["timestamp"].endswith("Z")
    assert capsys.readouterr().err == ""


def test_instants_are_told_in_seconds_that_are_left_and_never_less_than_none() -> None:
    now = time.monotonic()

    assert running_server.left_seconds(math.inf) is None
    assert running_server.left_seconds(now - 5) == 0
    assert running_server.left_seconds(now + 100) == pytest.approx(100, abs=20)
    assert running_server.wall_time(1_777_896_000.9) == "2026-05-04T12:00:00Z"


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert running_server.printable("a\x1b[31mb\u202ec") == "a?[31mb?c"
