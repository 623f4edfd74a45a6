"""A process is told apart from every other one that has had or will have its number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.ops import owners
from app.ops.owners import Owner, boot_id, find_owner, find_parent


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def fresh_boot() -> Iterator[None]:
    owners._boot.cache_clear()
    yield
    owners._boot.cache_clear()


def test_a_process_that_runs_lives(child: subprocess.Popen[bytes]) -> None:
    assert find_owner(os.getpid()).lives()
    assert find_owner(child.pid).lives()


def test_who_has_started_a_process_is_its_parent(child: subprocess.Popen[bytes]) -> None:
    assert find_parent(child.pid) == os.getpid()
    assert find_parent(os.getpid()) == os.getppid()


def test_one_that_is_gone_has_no_parent(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()

    assert find_parent(child.pid) == 0


def test_one_that_has_ended_does_not_live_even_before_it_is_reaped(child: subprocess.Popen[bytes]) -> None:
    owner = find_owner(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    unreaped = owner.lives()
    child.wait()

    assert not unreaped
    assert not owner.lives()


def test_another_process_with_the_same_number_is_another() -> None:
    mine = find_owner(os.getpid())

    assert mine.started > 0
    assert not replace(mine, started=mine.started - 1).lives()
    assert not replace(mine, boot=bytes(reversed(mine.boot))).lives()


def test_a_number_that_nobody_has_gives_nobody() -> None:
    assert not find_owner(2**22 + 1).lives()


@pytest.mark.parametrize("stat", [b"", b"7 (a) b) S 1 2", b"7 (a) S " + b"x " * 20])
def test_what_cannot_be_found_out_counts_as_alive(
    tmp_path: Path, stat: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = find_owner(os.getpid())
    (tmp_path / str(mine.pid)).mkdir()
    (tmp_path / str(mine.pid) / "stat").write_bytes(stat)
    monkeypatch.setattr(owners, "_PROCESSES", tmp_path)

    assert mine.lives()
    assert find_owner(mine.pid).started == 0


def test_where_the_system_tells_no_beginnings_the_number_decides(
    tmp_path: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_PROCESSES", tmp_path)
    owner, init = find_owner(child.pid), find_owner(1)

    alive = owner.lives()
    child.kill()
    child.wait()

    assert (owner.started, alive, owner.lives(), init.lives()) == (0, True, False, True)


def test_a_process_that_may_not_be_signalled_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)

    assert Owner(1, 0, find_owner(1).boot).lives()


def test_a_host_without_boot_ids_has_one_boot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_boot: None
) -> None:
    monkeypatch.setattr(owners, "_BOOT_ID", tmp_path / "none")

    mine = find_owner(os.getpid())

    assert boot_id() == ""
    assert mine.boot == bytes(owners.BOOT_BYTES)
    assert mine.lives()
