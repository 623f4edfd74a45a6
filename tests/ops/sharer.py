"""A process of its own that uses a board: ``python -m tests.ops.sharer USER PAGE WHAT …``; waits to be let go."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.ops.host_board import HostBoard
from app.ops.state import PAGE_NAME, StatePage
from app.stability.board import Decision

ROOT = Path(__file__).resolve().parents[2]
NAME = "storage_read"
T = TypeVar("T")


def start(page: Path, *what: object, user: int | None = None) -> subprocess.Popen[str]:
    """Start one; ``user`` is the id of the user it becomes when it has started, in the page's folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ops.sharer", str(user or 0), page.name, *map(str, what)],
        cwd=page.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(*started: subprocess.Popen[str]) -> None:
    """Wait until all have started, then let them begin."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def said(process: subprocess.Popen[str]) -> object:
    """Wait for its end; return what it said."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def consistent(era: int) -> Decision:
    """Return a decision of which every part follows from its era."""
    return Decision(era, f"state_{era % 7}", era % 5, float(era), f"by {era}", f"{era} " * (era % 20))


def probes(board: HostBoard, limit: str) -> list[bool]:
    """Ask for one more trial call than there are."""
    return [answered(lambda: board.take_probe(NAME, 1, int(limit))) for _ in range(int(limit) + 1)]


def answered(ask: Callable[[], T | None]) -> T:
    """Ask until there is an answer: there is none, and nothing is written, while who has the lock stands still."""
    ends = time.monotonic() + 30
    while (answer := ask()) is None:
        assert time.monotonic() < ends
        time.sleep(0.005)
    return answer


def wins(board: HostBoard, who: str, rounds: str) -> list[int]:
    """Try to decide about each era in turn; return those that this process has won."""
    won, era = [], 1
    while era <= int(rounds):
        mine = Decision(era, "open", 0, math.inf, who)
        standing = answered(partial(board.decide, NAME, mine))
        if standing == mine:
            won.append(era)
        era = standing.era + 1
    return won


def endless(board: HostBoard) -> None:
    """Decide without an end."""
    standing = board.read(NAME)
    era = standing.era if standing else 0
    while True:
        era += 1
        board.decide(NAME, consistent(era))


def one(board: HostBoard) -> list[object]:
    """Read, then decide once."""
    before = board.read(NAME)
    after = board.decide(NAME, consistent(2))
    return [before and before.era, after and after.era]


def keep(board: HostBoard) -> list[object]:
    """Read, let the page be harmed, and go on using the board until a newcomer reads the same as before."""
    before = board.read(NAME)
    say("knows")
    sys.stdin.readline()
    newcomer, ends = None, time.monotonic() + 30
    while newcomer != before and time.monotonic() < ends:
        board.read("another")
        newcomer = HostBoard(StatePage(Path(PAGE_NAME), writable=False)).read(NAME)
    return [before and before.era, newcomer and newcomer.era]


def entry(board: HostBoard) -> list[object]:
    """Say what the page says."""
    found = (board.entries() or {})[NAME]
    assert found.decision is not None
    return [found.decision.state, found.decision.by, found.decision.reason, found.decided_at]


def stop(_: HostBoard) -> None:
    """Stop while holding the lock, until somebody ends it."""

    def stopped(_: bytes | None) -> None:
        say("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)

    StatePage(Path(PAGE_NAME)).change("stopped", stopped)


def die(board: HostBoard, written: str) -> None:
    """Decide, and be killed when so many bytes are written."""
    really = os.pwrite

    def cut(descriptor: int, raw: Any, offset: int) -> int:
        really(descriptor, raw[: int(written)], offset)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    os.pwrite = cut
    board.decide(NAME, consistent(2))


def say(text: str) -> None:
    """Say a line to whoever has started this."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Do what the arguments say; print the result as JSON."""
    user, page, what, *rest = arguments
    if int(user):
        os.setuid(int(user))
    board = HostBoard(StatePage(Path(page)))
    say("here")
    sys.stdin.readline()
    known: dict[str, Callable[..., object]] = {
        "probes": probes,
        "wins": wins,
        "endless": endless,
        "one": one,
        "keep": keep,
        "entry": entry,
        "stop": stop,
        "die": die,
    }
    say(json.dumps(known[what](board, *rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
