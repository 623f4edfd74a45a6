"""The reasons of modes: what each forbids, who knows of it, how it ends, and what is left when the page is lost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    OverloadedError,
    ReadOnlyError,
    UnavailableError,
)
from app.ops.host_board import MODES, READ_ONLY, HostBoard
from app.ops.mode_reasons import (
    NORMAL,
    SMALL_BYTES,
    DatabaseWord,
    LastResult,
    MemoryLeft,
    OperatorWord,
    RenditionsLeft,
    SpoolRoom,
    StorageWrites,
    free_bytes,
)
from app.ops.modes import Changes, ModeName, Source
from app.ops.sampling import CheckResult, Status
from app.ops.state import PAGE_NAME, StatePage
from app.stability import CallRefusedError, CircuitBreaker, State
from tests.fakes.clocks import HandClock

EVERY_CHANGE = (Changes.SESSIONS, Changes.RECORDS, Changes.BYTES)
NOON = 1_777_896_000.0


class Host:
    """A page, and boards of modes on it as several processes have them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PAGE_NAME
        self.clock = HandClock()

    def board(self) -> HostBoard:
        page = StatePage(self.path, clock=self.clock)
        return HostBoard(page, prefix=MODES, now=lambda: NOON, clock=self.clock)

    def lose_page(self) -> None:
        """Put something where the page was that no process can replace."""
        os.truncate(self.path, 0)
        self.path.unlink()
        self.path.mkdir()
        self.clock.advance(5)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def refused(source: Source, size_bytes: int | None = SMALL_BYTES + 1) -> set[Changes]:
    """Return what a source forbids now, saying when to ask again."""
    found = set()
    for changes in EVERY_CHANGE:
        try:
            source.refuse(changes, size_bytes)
        except UnavailableError as error:
            if error.retry_after_seconds:
                found.add(changes)
    return found


def test_an_operator_s_word_holds_in_every_process_until_it_is_taken_back(host: Host) -> None:
    said, heard = OperatorWord(host.board(), host.clock), OperatorWord(host.board(), host.clock)
    before = refused(heard)

    was = said.say(READ_ONLY, seconds=None, by="ada@cli", reason="moving")
    reason, forbidden = heard.look(), refused(heard)
    was_then = said.say(NORMAL, seconds=None, by="bob@cli", reason="moved")

    assert (before, was, was_then) == (set(), NORMAL, READ_ONLY)
    assert forbidden == {Changes.RECORDS, Changes.BYTES}
    assert reason is not None
    assert (reason.mode, reason.since, reason.by, reason.said) == (ModeName.READ_ONLY, NOON, "ada@cli", "moving")
    assert (reason.ends_in_seconds, reason.stops_background) == (None, True)
    assert (heard.look(), refused(heard)) == (None, set())


def test_an_operator_s_word_for_a_time_ends_by_itself_and_clients_are_told_when(host: Host) -> None:
    word = OperatorWord(host.board(), host.clock)
    word.say(READ_ONLY, seconds=120, by="ada@cli", reason="")
    host.clock.advance(20)

    with pytest.raises(ReadOnlyError) as refusal:
        word.refuse(Changes.RECORDS, None)
    reason = word.look()
    host.clock.advance(100)

    assert refusal.value.retry_after_seconds == pytest.approx(100)
    assert reason is not None
    assert reason.ends_in_seconds == pytest.approx(100)
    assert (word.look(), refused(word)) == (None, set())
    assert word.say(READ_ONLY, seconds=None, by="ada@cli", reason="") == NORMAL


def test_a_long_window_does_not_keep_clients_away_when_it_is_ended_early(host: Host) -> None:
    word = OperatorWord(host.board(), host.clock)
    word.say(READ_ONLY, seconds=86_400, by="ada@cli", reason="")

    with pytest.raises(ReadOnlyError) as refusal:
        word.refuse(Changes.RECORDS, None)

    assert refusal.value.retry_after_seconds == 600


def test_taking_back_what_nobody_said_changes_nothing(host: Host) -> None:
    word = OperatorWord(host.board(), host.clock)

    assert word.say(NORMAL, seconds=None, by="ada@cli", reason="") == NORMAL

    assert (host.board().entries() or {}) == {}


def test_two_operators_at_once_are_both_heard_the_later_one_last(host: Host) -> None:
    first, second = OperatorWord(host.board(), host.clock), OperatorWord(host.board(), host.clock)
    first.say(READ_ONLY, seconds=None, by="ada@cli", reason="one")

    second.say(READ_ONLY, seconds=60, by="bob@cli", reason="two")

    reason = first.look()
    assert reason is not None
    assert (reason.by, reason.said) == ("bob@cli", "two")


def test_an_operator_s_word_holds_on_in_a_process_whose_page_is_lost(host: Host) -> None:
    word = OperatorWord(host.board(), host.clock)
    word.say(READ_ONLY, seconds=None, by="ada@cli", reason="")
    host.lose_page()

    assert refused(word) == {Changes.RECORDS, Changes.BYTES}
    with pytest.raises(UnavailableError, match="cannot be read or written"):
        word.say(NORMAL, seconds=None, by="ada@cli", reason="")
    assert word.look() is not None


def test_a_word_that_a_page_has_forgotten_is_put_back(host: Host) -> None:
    said, heard = OperatorWord(host.board(), host.clock), OperatorWord(host.board(), host.clock)
    said.say(READ_ONLY, seconds=None, by="ada@cli", reason="")
    before = refused(heard)
    os.truncate(host.path, 0)
    host.clock.advance(5)

    assert refused(said) == refused(heard) == before == {Changes.RECORDS, Changes.BYTES}
    assert refused(OperatorWord(host.board(), host.clock)) == before


def test_without_a_server_nothing_can_be_said_and_nothing_is_refused() -> None:
    word = OperatorWord(None)

    with pytest.raises(UnavailableError):
        word.say(READ_ONLY, seconds=None, by="ada@cli", reason="")

    assert refused(word) == set()


def takes_changes() -> None:
    return None


def takes_none() -> None:
    raise DatabaseReadOnlyError("none")


def is_down() -> None:
    raise DatabaseUnavailableError("down")


def counted(answer: Callable[[], None], calls: list[int]) -> Callable[[], None]:
    def call() -> None:
        calls.append(1)
        answer()

    return call


def test_a_change_that_one_process_was_refused_is_refused_in_all(host: Host) -> None:
    seen, other = DatabaseWord(host.board()), DatabaseWord(host.board())
    before = refused(other)

    seen.note_refused()

    reason = other.look()
    assert (before, refused(other)) == (set(), set(EVERY_CHANGE))
    with pytest.raises(DatabaseReadOnlyError):
        other.refuse(Changes.SESSIONS, None)
    assert reason is not None
    assert (reason.mode, reason.since, reason.stops_background) == (ModeName.READ_ONLY, NOON, True)


def test_the_first_change_that_is_taken_again_ends_it_in_all(host: Host) -> None:
    seen, other = DatabaseWord(host.board()), DatabaseWord(host.board())
    seen.note_refused()
    statuses = [other.check(answer)().status for answer in (takes_none, is_down, takes_none)]
    still = refused(seen)

    last = other.check(takes_changes)()

    assert statuses == [Status.WARN] * 3
    assert still == set(EVERY_CHANGE)
    assert last.status is Status.PASS
    assert (refused(seen), seen.look(), refused(other)) == (set(), None, set())


def test_a_database_that_takes_changes_is_not_asked(host: Host) -> None:
    calls: list[int] = []
    check = DatabaseWord(host.board()).check(counted(takes_none, calls))

    results = {check().status for _ in range(3)}

    assert (results, calls) == ({Status.PASS}, [])


@pytest.mark.parametrize(
    ("answer", "forbidden"),
    [(takes_none, set(EVERY_CHANGE)), (takes_changes, set()), (is_down, set())],
    ids=["takes none", "takes them", "is down"],
)
def test_a_doubt_is_settled_by_one_change_that_changes_nothing(
    host: Host, answer: Callable[[], None], forbidden: set[Changes]
) -> None:
    word, calls = DatabaseWord(host.board()), list[int]()
    check = word.check(counted(answer, calls))

    word.doubt()
    check()

    assert (refused(word), calls) == (forbidden, [1])


def test_without_a_page_each_process_goes_by_what_it_has_seen(host: Host) -> None:
    lost = DatabaseWord(host.board())
    host.board().entries()
    host.lose_page()

    for word in (lost, DatabaseWord(None)):
        word.note_refused()
        before = refused(word)
        word.check(takes_changes)()

        assert (before, refused(word)) == (set(EVERY_CHANGE), set())


def opened(clock: HandClock) -> CircuitBreaker:
    breaker = CircuitBreaker("storage_write", clock=clock)
    breaker.open_for(30, by="ada", reason="a test")
    return breaker


def test_an_open_breaker_refuses_uploads_alone_says_when_and_counts_each() -> None:
    clock = HandClock()
    breaker = opened(clock)
    source = StorageWrites(breaker)

    with pytest.raises(UnavailableError) as refusal:
        source.refuse(Changes.BYTES, 10)

    reason = source.look()
    assert refused(source) == {Changes.BYTES}
    assert refusal.value.retry_after_seconds == pytest.approx(30)
    assert isinstance(refusal.value.__cause__, CallRefusedError)
    assert breaker.snapshot().calls["not_permitted"] == 2
    assert reason is not None
    assert (reason.mode, reason.output) == (ModeName.DEGRADED, "the circuit breaker storage_write is open")
    assert reason.ends_in_seconds == pytest.approx(30)
    assert not reason.stops_background


def test_uploads_are_the_trial_calls_once_the_wait_is_over() -> None:
    clock = HandClock()
    breaker = opened(clock)
    source = StorageWrites(breaker)
    clock.advance(30)
    over = refused(source)

    breaker.acquire()  # the upload that was let through

    assert (over, breaker.state, refused(source)) == (set(), State.HALF_OPEN, set())
    assert source.look() is not None


@pytest.mark.parametrize("state", [State.CLOSED, State.DISABLED, State.METRICS_ONLY])
def test_a_breaker_that_lets_all_through_is_no_reason(state: State) -> None:
    breaker = CircuitBreaker("storage_write")
    breaker.transition_to(state, by="ada", reason="")
    source = StorageWrites(breaker)

    assert (source.look(), refused(source)) == (None, set())


def test_a_breaker_that_is_open_until_somebody_says_otherwise_still_says_when_to_ask_again() -> None:
    breaker = CircuitBreaker("storage_write")
    breaker.transition_to(State.FORCED_OPEN, by="ada", reason="")

    with pytest.raises(UnavailableError) as refusal:
        StorageWrites(breaker).refuse(Changes.BYTES, None)

    assert refusal.value.retry_after_seconds is not None
    assert 2 <= refusal.value.retry_after_seconds <= 600
    assert math.isfinite(refusal.value.retry_after_seconds)


FULL, SHORT = CheckResult(Status.FAIL, "no room"), CheckResult(Status.WARN, "memory is short")
RED, WELL = CheckResult(Status.FAIL, "almost none left"), CheckResult(Status.PASS)


def checked(result: CheckResult) -> LastResult:
    check = LastResult(lambda: result)
    assert (check.last.status, check()) == (Status.PASS, result)
    return check


MAX_BYTES = 30 * SMALL_BYTES


@pytest.mark.parametrize(
    ("room", "size", "is_refused"),
    [
        (0, SMALL_BYTES, False),
        (0, SMALL_BYTES + 1, True),
        (3 * SMALL_BYTES, 3 * SMALL_BYTES, False),
        (3 * SMALL_BYTES - 1, 3 * SMALL_BYTES, True),
        (MAX_BYTES - 1, None, True),
        (MAX_BYTES, None, False),
        (MAX_BYTES, 2 * MAX_BYTES, False),  # too large for anybody, which is another answer
        (None, 3 * SMALL_BYTES, False),
    ],
    ids=["small", "none left", "fits", "a byte less", "not said", "any fits", "too large", "not known"],
)
def test_an_upload_that_needs_the_spool_has_to_fit_into_what_is_free_now(
    room: int | None, size: int | None, is_refused: bool
) -> None:
    source = SpoolRoom(checked(WELL), lambda: room, MAX_BYTES)

    assert refused(source, size) == ({Changes.BYTES} if is_refused else set())


def test_a_spool_that_is_short_of_room_is_a_reason_by_its_check() -> None:
    reason = SpoolRoom(checked(FULL), lambda: MAX_BYTES, MAX_BYTES).look()

    assert reason is not None
    assert (reason.mode, reason.output, reason.stops_background) == (ModeName.DEGRADED, "no room", False)


@pytest.mark.parametrize("result", [WELL, CheckResult(Status.WARN, "it cannot be written")], ids=["well", "warns"])
def test_a_spool_with_room_is_no_reason(result: CheckResult) -> None:
    assert SpoolRoom(checked(result), lambda: 0, MAX_BYTES).look() is None


def test_what_is_free_is_asked_of_the_file_system(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)

    assert free is not None
    assert free > 0
    assert free_bytes(tmp_path / "none") is None


@pytest.mark.parametrize(("result", "stops"), [(SHORT, False), (RED, True)], ids=["short", "red"])
def test_short_memory_refuses_large_uploads_and_red_memory_stops_background_work(
    result: CheckResult, stops: bool
) -> None:
    source = MemoryLeft(checked(result))

    with pytest.raises(OverloadedError):
        source.refuse(Changes.BYTES, SMALL_BYTES + 1)

    reason = source.look()
    assert (refused(source, None), refused(source, SMALL_BYTES)) == ({Changes.BYTES}, set())
    assert reason is not None
    assert (reason.mode, reason.stops_background) == (ModeName.DEGRADED, stops)


def test_renditions_that_are_left_out_are_a_reason_that_refuses_nothing_and_stops_nothing_else() -> None:
    source = RenditionsLeft(lambda: "not as AVIF")

    reason = source.look()

    assert reason is not None
    assert (reason.name, reason.mode, reason.output) == ("renditions", ModeName.DEGRADED, "not as AVIF")
    assert (reason.stops_background, refused(source, None)) == (False, set())


def test_renditions_of_which_nothing_is_left_out_are_no_reason() -> None:
    assert RenditionsLeft(str).look() is None


def test_enough_memory_is_no_reason() -> None:
    source = MemoryLeft(checked(WELL))

    assert (source.look(), refused(source)) == (None, set())
