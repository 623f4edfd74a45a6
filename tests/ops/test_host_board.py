"""The board of a host: decisions follow each other, trial calls are counted for all, processes may die anywhere."""

from __future__ import annotations

import math
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from app.ops.host_board import (
    BREAKER_NAME_BYTES_MAX,
    DATABASE,
    MODES,
    READ_ONLY,
    REASON_BYTES_MAX,
    BoardEntry,
    HostBoard,
    operators_entries,
    pack_entry,
    read_entry,
)
from app.ops.state import PAGE_NAME, StatePage
from app.ops.state_file import make_page
from app.ops.state_layout import PAGE_BYTES, PAYLOAD_BYTES_MAX, SLOT_BYTES, offset_of
from app.stability.board import Decision, ProbeCounts
from tests.fakes.clocks import HandClock
from tests.ops.sharer import NAME, consistent, go, said, start

OPEN = Decision(1, "open", 1, 1234.5, "ada@cli", "the store is being moved")
NOBODY = 65534


@pytest.fixture
def board(path: Path) -> HostBoard:
    return HostBoard(StatePage(path), now=lambda: 1_770_000_000.0)


def test_nothing_is_decided_at_first(board: HostBoard) -> None:
    assert board.read(NAME) is None
    assert board.entries() == {}
    assert board.works


def test_a_decision_is_read_as_it_was_written(board: HostBoard, path: Path) -> None:
    assert board.decide(NAME, OPEN) is OPEN

    assert HostBoard(StatePage(path)).read(NAME) == OPEN
    assert board.entries() == {NAME: BoardEntry(OPEN, 1_770_000_000.0)}


def test_only_the_next_decision_counts(board: HostBoard) -> None:
    board.decide(NAME, OPEN)
    following = Decision(2, "half_open", 1, math.inf)

    same, ahead = (
        board.decide(NAME, Decision(1, "closed", 0, math.inf)),
        board.decide(NAME, Decision(3, "closed", 0, 0.0)),
    )
    accepted = board.decide(NAME, following)

    assert (same, ahead, accepted) == (OPEN, OPEN, following)


@pytest.mark.parametrize("era", [1, 7])
def test_anything_follows_nothing(board: HostBoard, era: int) -> None:
    decision = Decision(era, "open", 0, math.inf)
    board.announce([NAME])

    assert board.decide(NAME, decision) == decision


def test_breakers_that_are_announced_are_listed_and_keep_what_was_decided(board: HostBoard) -> None:
    board.decide("b", OPEN)

    board.announce(["a", "b", "n" * (BREAKER_NAME_BYTES_MAX + 1)])

    entries = board.entries()
    assert entries is not None
    assert {name: entry.decision for name, entry in entries.items()} == {"a": None, "b": OPEN}


def test_trial_calls_are_counted_until_the_next_decision(board: HostBoard) -> None:
    board.decide(NAME, Decision(1, "half_open", 1, math.inf))
    granted = [board.take_probe(NAME, 1, 2) for _ in range(3)]
    board.return_probe(NAME, 1)
    again = [board.take_probe(NAME, 1, 2) for _ in range(2)]
    counts = [
        board.record_probe(NAME, 1, failed=failed, slow=slow) for failed, slow in [(True, False), (False, True)]
    ]

    board.decide(NAME, Decision(2, "half_open", 1, math.inf))

    assert (granted, again) == ([True, True, False], [True, False])
    assert counts == [ProbeCounts(1, 1, 0), ProbeCounts(2, 1, 1)]
    assert board.take_probe(NAME, 2, 1) is True
    assert board.record_probe(NAME, 2, failed=False, slow=False) == ProbeCounts(1, 0, 0)


@pytest.mark.parametrize("era", [0, 2])
def test_trial_calls_of_another_era_are_not_counted(board: HostBoard, era: int) -> None:
    board.decide(NAME, OPEN)

    taken, counts = board.take_probe(NAME, era, 5), board.record_probe(NAME, era, failed=True, slow=True)
    board.return_probe(NAME, era)

    assert (taken, counts) == (None, None)
    assert board.entries() == {NAME: BoardEntry(OPEN, 1_770_000_000.0)}


def test_no_more_is_given_back_than_was_taken(board: HostBoard) -> None:
    board.decide(NAME, OPEN)
    board.return_probe(NAME, 1)

    assert [board.take_probe(NAME, 1, 1) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("name", ["", "n" * (BREAKER_NAME_BYTES_MAX + 1), "ö" * 33, "a\0", "\udcff"])
def test_a_name_that_has_no_room_is_not_shared(board: HostBoard, name: str) -> None:
    assert board.decide(name, OPEN) is None
    assert board.read(name) is None
    assert board.take_probe(name, 1, 1) is None
    assert board.works


def test_sixty_four_breakers_have_room(board: HostBoard) -> None:
    names = [f"{number:02}".rjust(BREAKER_NAME_BYTES_MAX, "n") for number in range(64)]

    decided = [board.decide(name, OPEN) for name in names]

    assert decided == [OPEN] * 64
    assert set(board.entries() or ()) == set(names)


@given(
    some.text(),
    some.text(),
    some.text(),
    some.tuples(some.integers(1, 2**63), some.floats(allow_nan=False), some.integers(0, 2**40)),
)
def test_long_texts_are_cut_between_characters_and_everything_fits(
    state: str, by: str, reason: str, numbers: tuple[int, float, int]
) -> None:
    era, until, count = numbers
    raw = pack_entry(
        BoardEntry(Decision(era, state, count, until, by * 9, reason * 9), 5.0, count, ProbeCounts(1, 2, 3))
    )

    entry = read_entry(raw)

    assert len(raw) <= PAYLOAD_BYTES_MAX
    assert entry.decision is not None
    assert (entry.decision.era, entry.decision.until) == (era, until)
    assert (reason * 9).startswith(entry.decision.reason)
    assert len(entry.decision.reason.encode()) <= REASON_BYTES_MAX


@given(some.binary(max_size=PAYLOAD_BYTES_MAX))
def test_a_payload_of_any_bytes_is_read_without_an_error(raw: bytes) -> None:
    assert read_entry(raw).taken >= 0


@pytest.mark.parametrize(
    ("decision", "is_kept"),
    [
        (Decision(3, "forced_open", 0, math.inf, "ada@cli", "moving"), True),
        (Decision(3, "disabled", 0, math.inf, "ada@cli"), True),
        (Decision(3, "metrics_only", 0, math.inf, "ada@cli"), True),
        (Decision(3, "forced_half_open", 0, math.inf, "ada@cli"), True),
        (Decision(3, "open", 0, 1000.5, "ada@cli"), True),
        (Decision(3, "open", 0, 1000.0, "ada@cli"), False),
        (Decision(3, "open", 0, 2000.0), False),
        (Decision(3, "closed", 0, math.inf, "ada@cli"), False),
        (Decision(3, "half_open", 0, 2000.0, "ada@cli"), False),
    ],
)
def test_what_operators_said_goes_over_to_a_new_page(
    path: Path,
    board: HostBoard,
    decision: Decision,
    is_kept: bool,
) -> None:
    board.decide(NAME, decision)
    board.take_probe(NAME, 3, 1)
    board.announce(["other"])

    kept = operators_entries(StatePage(path), 1000.0)

    expected = {f"breaker/{NAME}": BoardEntry(decision, 1_770_000_000.0)} if is_kept else {}
    assert {name: read_entry(raw) for name, raw in kept.items()} == expected


@pytest.mark.parametrize(
    ("decision", "is_kept"),
    [
        (Decision(3, READ_ONLY, 0, math.inf, "ada@cli", "moving"), True),
        (Decision(3, READ_ONLY, 0, 1000.5, "ada@cli"), True),
        (Decision(3, READ_ONLY, 0, 1000.0, "ada@cli"), False),
        (Decision(3, "normal", 0, math.inf, "ada@cli"), False),
        (Decision(3, READ_ONLY, 0, math.inf, DATABASE), False),
    ],
)
def test_what_operators_said_of_the_mode_goes_over_to_a_new_page_and_what_was_found_does_not(
    path: Path, decision: Decision, is_kept: bool
) -> None:
    HostBoard(StatePage(path), prefix=MODES, now=lambda: 1_770_000_000.0).decide("operator", decision)

    kept = operators_entries(StatePage(path), 1000.0)

    expected = {"mode/operator": BoardEntry(decision, 1_770_000_000.0)} if is_kept else {}
    assert {name: read_entry(raw) for name, raw in kept.items()} == expected


def test_two_boards_on_one_page_know_nothing_of_each_other(path: Path, board: HostBoard) -> None:
    modes = HostBoard(StatePage(path), prefix=MODES)
    decisions = Decision(1, READ_ONLY, 0, math.inf, "ada@cli"), Decision(7, "open", 1, 2000.0)

    modes.decide(NAME, decisions[0])
    board.decide(NAME, decisions[1])

    assert (modes.read(NAME), board.read(NAME)) == decisions
    assert [set(each.entries() or {}) for each in (modes, board)] == [{NAME}, {NAME}]


def test_after_a_reboot_of_the_host_an_instant_says_nothing(
    path: Path, board: HostBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.decide("a", Decision(3, "open", 0, 2000.0, "ada@cli"))
    board.decide("b", Decision(3, "forced_open", 0, math.inf, "ada@cli"))
    monkeypatch.setattr("app.ops.host_board.boot_id", lambda: "another")

    assert operators_entries(StatePage(path), 1000.0).keys() == {"breaker/b"}


def test_of_a_page_that_is_lost_nothing_is_kept(tmp_path: Path) -> None:
    assert operators_entries(StatePage(tmp_path / "none", writable=False), 0.0) == {}


# What a page has forgotten and a process remembers.

FORCED = Decision(5, "forced_open", 0, math.inf, "ada@cli", "the store is being moved")
RESET = Decision(6, "closed", 0, math.inf, "ada@cli", "moved")


class Worker:
    """One process's board of the page, with a wall clock and a monotonic one that stand where they are put."""

    def __init__(self, path: Path) -> None:
        self.clock = HandClock()
        self.wall = 100.0
        self.board = HostBoard(StatePage(path, clock=self.clock), now=lambda: self.wall, clock=self.clock)


def forget(path: Path) -> None:
    """Put an empty page in the place of the one that was there."""
    with path.open("r+b") as file:
        file.seek(offset_of(0))
        file.write(bytes(PAGE_BYTES - offset_of(0)))


def decided(board: HostBoard, decision: Decision) -> None:
    """Put a decision of any era on a page that says nothing, or that of the next era on one that does."""
    assert board.decide(NAME, decision) == decision


def page_says(path: Path) -> BoardEntry | None:
    """Return what a process reads that remembers nothing."""
    return (HostBoard(StatePage(path, writable=False)).entries() or {}).get(NAME)


def test_what_a_page_has_forgotten_comes_back_as_it_was_with_its_trial_calls(path: Path) -> None:
    worker = Worker(path)
    decided(worker.board, FORCED)
    worker.board.take_probe(NAME, 5, 3)
    worker.board.record_probe(NAME, 5, failed=True, slow=False)
    before = page_says(path)
    forget(path)

    read = worker.board.read(NAME)

    assert read == FORCED
    assert before == page_says(path) == BoardEntry(FORCED, 100.0, 1, ProbeCounts(1, 1, 0))


@pytest.mark.parametrize("used", ["another", "list", "decide"])
def test_a_use_of_any_breaker_brings_all_back_after_a_second(path: Path, used: str) -> None:
    operator, worker = Worker(path), Worker(path)
    decided(operator.board, FORCED)
    worker.board.announce(["another"])
    worker.board.read("another")
    forget(path)
    worker.clock.advance(1)

    answers = {
        "another": lambda: worker.board.read("another"),
        "list": lambda: (worker.board.entries() or {})[NAME].decision,
        "decide": lambda: worker.board.decide(NAME, Decision(1, "open", 1, 7.0)),
    }[used]()

    assert answers == (None if used == "another" else FORCED)
    assert page_says(path) == BoardEntry(FORCED, 100.0)
    assert (HostBoard(StatePage(path)).entries() or {}).keys() == ({NAME} if used == "decide" else {NAME, "another"})


def test_a_decision_that_follows_what_is_remembered_counts_on_a_page_that_has_forgotten(path: Path) -> None:
    worker = Worker(path)
    decided(worker.board, FORCED)
    forget(path)

    assert worker.board.decide(NAME, RESET) == RESET
    assert page_says(path) == BoardEntry(RESET, 100.0)


def test_an_older_memory_does_not_undo_what_follows_it_on_the_page(path: Path) -> None:
    stale, operator = Worker(path), Worker(path)
    decided(operator.board, FORCED)
    stale.board.read(NAME)
    operator.wall = 50.0  # a clock that was put back says nothing where eras do
    decided(operator.board, RESET)

    read = stale.board.read(NAME)

    assert read == RESET
    assert page_says(path) == BoardEntry(RESET, 50.0)


@pytest.mark.parametrize("era", [1, 5])
def test_what_was_decided_on_a_page_after_it_had_forgotten_stays(path: Path, era: int) -> None:
    stale, operator = Worker(path), Worker(path)
    decided(stale.board, FORCED)
    forget(path)
    operator.wall = 101.0
    reset = Decision(era, "closed", 0, math.inf, "ada@cli", "moved")
    decided(operator.board, reset)

    reads = [stale.board.read(NAME), stale.board.read(NAME)]
    forget(path)
    again = stale.board.read(NAME)

    assert [*reads, again] == [reset] * 3
    assert page_says(path) == BoardEntry(reset, 101.0)


@pytest.mark.parametrize("stale_is_first", [True, False])
def test_of_two_memories_the_later_has_the_last_word(path: Path, *, stale_is_first: bool) -> None:
    stale, fresh = Worker(path), Worker(path)
    decided(stale.board, FORCED)
    fresh.board.read(NAME)
    fresh.wall = 101.0
    decided(fresh.board, RESET)
    forget(path)

    for worker in (stale, fresh) if stale_is_first else (fresh, stale):
        worker.board.read(NAME)

    assert page_says(path) == BoardEntry(RESET, 101.0)
    assert stale.board.read(NAME) == RESET


def test_what_could_not_be_written_is_not_remembered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(path)
    decided(worker.board, FORCED)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda *_: 0)
        refused = worker.board.decide(NAME, RESET)
    forget(path)

    assert refused is None
    assert worker.board.read(NAME) == FORCED


def test_a_page_that_can_be_neither_made_nor_read_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    worker = Worker(folder / PAGE_NAME)
    decided(worker.board, FORCED)
    (folder / PAGE_NAME).unlink()
    folder.rmdir()
    folder.touch()
    worker.board._page.close()

    assert worker.board.read(NAME) is None
    assert worker.board.entries() is None
    assert not worker.board.works


# With real processes.


@pytest.mark.parametrize("harm", ["cut off", "overwritten", "deleted"])
def test_a_process_that_knows_gives_a_harmed_page_back_what_an_operator_said(
    path: Path, board: HostBoard, harm: str
) -> None:
    decided(board, FORCED)
    keeper = start(path, "keep")
    go(keeper)
    assert keeper.stdout is not None
    assert keeper.stdin is not None
    assert keeper.stdout.readline() == "knows\n"
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "cut off" else random.Random(4).randbytes(PAGE_BYTES))

    keeper.stdin.write("harmed\n")
    kept = said(keeper)
    newcomer = start(path, "entry")
    go(newcomer)

    assert kept == [5, 5]
    assert said(newcomer) == ["forced_open", "ada@cli", "the store is being moved", 1_770_000_000.0]


def test_four_processes_get_as_many_trial_calls_as_there_are(path: Path, board: HostBoard) -> None:
    board.decide(NAME, Decision(1, "half_open", 1, math.inf))
    processes = [start(path, "probes", 10) for _ in range(4)]
    go(*processes)

    answers = [said(process) for process in processes]

    given_out = [answer for told in answers for answer in told]  # type: ignore[attr-defined]  # a list of JSON
    assert sorted(given_out, key=str) == [False] * 34 + [True] * 10


def test_each_era_has_one_winner(path: Path) -> None:
    processes = {name: start(path, "wins", name, 200) for name in ("a", "b", "c", "d")}
    go(*processes.values())

    won = {name: said(process) for name, process in processes.items()}

    eras = [era for told in won.values() for era in told]  # type: ignore[attr-defined]  # a list of JSON
    assert sorted(eras) == list(range(1, 201))


def test_another_process_sees_a_decision_at_once(path: Path, board: HostBoard) -> None:
    other = start(path, "one")
    board.decide(NAME, consistent(1))
    go(other)

    assert said(other) == [1, 2]
    assert board.read(NAME) == consistent(2)


def test_a_process_killed_while_it_writes_leaves_a_whole_decision_and_no_lock(path: Path, board: HostBoard) -> None:
    last = 0
    for round_ in range(12):
        writer = start(path, "endless")
        go(writer)
        until_era_after(board, last + 20 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()

        standing = board.read(NAME)

        assert standing == consistent(standing.era if standing else 0)
        assert standing.era >= last
        following = consistent(standing.era + 1)
        assert board.decide(NAME, following) == following
        last = following.era
    assert board.works


def until_era_after(board: HostBoard, era: int) -> None:
    """Wait until the writer has come so far; each look has to find a whole decision."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        standing = board.read(NAME)
        if standing is not None:
            assert standing == consistent(standing.era)
            if standing.era > era:
                return
    raise AssertionError(era)


def test_readers_beside_a_writer_always_see_a_whole_decision_and_never_an_older_one(
    path: Path, board: HostBoard
) -> None:
    writer = start(path, "endless")
    go(writer)
    until_era_after(board, 0)
    seen: list[int] = []

    def look() -> None:
        mine = HostBoard(StatePage(path))
        eras = [standing for _ in range(3000) if (standing := mine.read(NAME)) is not None]
        assert all(standing == consistent(standing.era) for standing in eras)
        assert eras == sorted(eras, key=lambda standing: standing.era)
        seen.append(len(eras))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()

    assert seen == [3000] * 3


def test_a_process_stopped_with_the_lock_holds_nobody_up_and_killed_gives_it_back(path: Path) -> None:
    clock = HandClock()
    board = HostBoard(StatePage(path, clock=clock))
    board.decide(NAME, consistent(1))
    holder = start(path, "stop")
    go(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "stopped\n"

    refused, seen = board.decide(NAME, consistent(2)), board.read(NAME)
    holder.kill()
    holder.communicate()
    clock.advance(1)
    accepted = board.decide(NAME, consistent(2))

    assert (refused, seen, accepted) == (None, consistent(1), consistent(2))
    assert sum(clock.slept) < 0.1


@pytest.mark.parametrize("written", [0, 1, 4, 12, 90, 130, 512])
def test_a_process_killed_inside_of_a_write_leaves_the_old_or_the_new(
    path: Path, board: HostBoard, written: int
) -> None:
    board.decide(NAME, consistent(1))
    writer = start(path, "die", written)
    go(writer)
    writer.communicate()

    standing = board.read(NAME)

    assert writer.returncode == -signal.SIGKILL
    assert standing == consistent(2 if written == 512 else 1)
    assert board.decide(NAME, consistent(standing.era + 1)) == consistent(standing.era + 1)


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_that_may_only_read_the_page_reads_it(readable_folder: Path) -> None:
    path = readable_folder / PAGE_NAME
    make_page(path, {})
    path.chmod(0o644)
    HostBoard(StatePage(path)).decide(NAME, consistent(1))

    other = start(path, "one", user=NOBODY)
    go(other)

    assert said(other) == [1, None]


@settings(max_examples=300)
@given(some.integers(0, PAGE_BYTES - 1), some.binary(min_size=1, max_size=SLOT_BYTES))
def test_noise_at_any_offset_leaves_the_old_or_the_new_decision_or_none(offset: int, noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PAGE_NAME
        make_page(path, {})
        board = HostBoard(StatePage(path))
        for era in (1, 2):
            board.decide(NAME, consistent(era))
        with path.open("r+b") as file:
            file.seek(offset if offset % 3 else offset_of(0) + offset % SLOT_BYTES)
            file.write(noise)

        for view in (board, HostBoard(StatePage(path))):
            assert view.read(NAME) in {None, consistent(1), consistent(2)}
            assert view.take_probe(NAME, 2, 1) in {None, True, False}
        assert board.decide("other", OPEN) == OPEN
        assert NAME in (board.entries() or {}) or board.read(NAME) is None
