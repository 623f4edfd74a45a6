"""Who of a worker's requests is at work, waits or is refused, rule by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import inf

import pytest

from app.ops.admission import Admission, AdmissionOptions, Decision, Reason, RequestClass, retry_after_seconds

READ, UPLOAD, BACKGROUND = RequestClass

TARGET = 1.0
INTERVAL = 16.0
MAX_WAIT = 64.0
QUARTERS = {READ: 0.5, UPLOAD: 0.25, BACKGROUND: 0.25}


def options(
    places: int = 4, queue: int = 8, shares: Mapping[RequestClass, float] = QUARTERS, max_wait: float = MAX_WAIT
) -> AdmissionOptions:
    """Limits with instants that are easy to read."""
    return AdmissionOptions(
        max_concurrent=places,
        max_queue=queue,
        max_wait_seconds=max_wait,
        shares=shares,
        target_seconds=TARGET,
        interval_seconds=INTERVAL,
    )


class Scene:
    """An admission at an instant, with tickets that are words such as ``read 1``."""

    def __init__(self, limits: AdmissionOptions) -> None:
        self.admission: Admission[str] = Admission(limits)
        self.now = 0.0
        self._numbers: Counter[RequestClass] = Counter()

    def offer(self, request_class: RequestClass, count: int = 1) -> list[Decision | Reason]:
        decisions = []
        for _ in range(count):
            self._numbers[request_class] += 1
            ticket = f"{request_class} {self._numbers[request_class]}"
            decisions.append(self.admission.offer(ticket, request_class, self.now))
        return decisions

    def admitted(self, request_class: RequestClass) -> list[str]:
        """Offer one; return its ticket if it has a place."""
        decision = self.offer(request_class)
        return [f"{request_class} {self._numbers[request_class]}"] if decision == [Decision.ADMITTED] else []

    def resume(self, ticket: str, request_class: RequestClass = READ) -> bool:
        return self.admission.resume(ticket, request_class, self.now)

    def release(self, request_class: RequestClass) -> list[tuple[str, Reason | None]]:
        self.admission.release(request_class)
        return self.decided()

    def decided(self) -> list[tuple[str, Reason | None]]:
        return list(self.admission.next(self.now))


def standing() -> Scene:
    """Two places, taken, and a queue of reads that stands: two words were given with place, one was dropped."""
    scene = Scene(options(places=2, queue=20, shares={}))
    scene.offer(READ, 2 + 8)
    scene.now = 2.0
    assert scene.release(READ) == [("read 3", None)]
    scene.now = 18.0
    assert scene.release(READ) == [("read 4", Reason.QUEUE_DELAY), ("read 5", None)]
    return scene


# ── places ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_finds_a_place_runs_at_once() -> None:
    scene = Scene(options(places=2))

    decisions = scene.offer(READ, 2)

    assert decisions == [Decision.ADMITTED, Decision.ADMITTED]
    assert scene.admission.running == 2


def test_without_a_queue_and_with_one_place_the_second_request_is_refused() -> None:
    scene = Scene(options(places=1, queue=0))

    decisions = scene.offer(READ, 2)
    scene.release(READ)

    assert decisions == [Decision.ADMITTED, Reason.QUEUE_FULL]
    assert scene.offer(UPLOAD) == [Decision.ADMITTED]


def test_reads_may_use_every_place_that_nobody_else_wants() -> None:
    scene = Scene(options(places=4))

    decisions = scene.offer(READ, 5)

    assert decisions == [*([Decision.ADMITTED] * 4), Decision.QUEUED]


@pytest.mark.parametrize(("borrower", "places"), [(UPLOAD, 15), (BACKGROUND, 10)])
def test_what_the_more_important_are_guaranteed_is_not_lent(borrower: RequestClass, places: int) -> None:
    scene = Scene(options(places=20, queue=20, shares={READ: 0.25, UPLOAD: 0.25, BACKGROUND: 0.25}))

    decisions = scene.offer(borrower, places + 1)

    assert decisions == [*([Decision.ADMITTED] * places), Decision.QUEUED]
    assert scene.offer(READ) == [Decision.ADMITTED]


def test_uploads_and_background_work_together_leave_the_reads_theirs() -> None:
    scene = Scene(options(places=4))
    scene.offer(UPLOAD)
    scene.offer(BACKGROUND)

    decisions = [scene.offer(BACKGROUND), scene.offer(UPLOAD), scene.offer(READ)]

    assert decisions == [[Decision.QUEUED], [Decision.QUEUED], [Decision.ADMITTED]]


def test_one_of_a_class_may_run_whatever_others_are_guaranteed() -> None:
    scene = Scene(options(places=4, shares={READ: 1.0}))

    assert scene.offer(BACKGROUND, 2) == [Decision.ADMITTED, Decision.QUEUED]


def test_a_place_that_comes_free_goes_to_the_class_that_lent_it() -> None:
    scene = Scene(options(places=4))
    scene.offer(READ, 4 + 3)
    scene.now = 0.5
    scene.offer(UPLOAD, 3)

    words = [scene.release(READ) for _ in range(3)]

    assert words == [[("upload 1", None)], [("read 5", None)], [("read 6", None)]]


def test_classes_short_of_their_guarantee_are_served_by_importance() -> None:
    scene = Scene(options(places=4))
    scene.offer(READ, 4)
    scene.offer(BACKGROUND)
    scene.offer(UPLOAD)

    words = [scene.release(READ), scene.release(READ)]

    assert words == [[("upload 1", None)], [("background 1", None)]]


def test_places_of_nobody_go_by_age_over_all_classes() -> None:
    scene = Scene(options(places=2, shares={}))
    scene.offer(READ, 2)
    for request_class in (BACKGROUND, READ, UPLOAD):
        scene.now += 0.25
        scene.offer(request_class)

    words = [scene.release(READ), scene.release(READ), scene.release(BACKGROUND)]

    assert words == [[("background 1", None)], [("read 3", None)], [("upload 1", None)]]


@pytest.mark.parametrize("places", [1, 2, 3, 4, 50])
def test_every_class_with_a_share_gets_on_in_a_flood_of_the_others(places: int) -> None:
    for starved in RequestClass:
        scene = Scene(options(places=places, queue=60, max_wait=inf))
        others = [each for each in RequestClass if each is not starved]
        ticket = f"{starved} 1"
        running = []
        for number in range(2 * places + 8):
            running += scene.admitted(others[number % 2])
        running += scene.admitted(starved)

        for turn in range(8 * places + 20):
            scene.now += 0.001  # far below the target: nothing is dropped
            if running[0] == ticket:
                break
            words = scene.release(RequestClass(running.pop(0).split()[0]))
            running += [word for word, reason in words if reason is None]
            running += scene.admitted(others[turn % 2])
        else:
            pytest.fail(f"{starved} has starved")


@pytest.mark.parametrize(
    ("places", "guaranteed"), [(1, [0, 0, 0]), (2, [1, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (50, [25, 12, 2])]
)
def test_a_share_is_whole_places_and_one_at_least_where_that_fits(places: int, guaranteed: list[int]) -> None:
    admission = Scene(options(places=places, shares={READ: 0.5, UPLOAD: 0.25, BACKGROUND: 0.05})).admission

    assert [admission._lanes[each].guaranteed for each in RequestClass] == guaranteed


def test_a_place_that_nobody_has_cannot_be_given_back() -> None:
    scene = Scene(options())
    scene.offer(READ)

    with pytest.raises(ValueError, match="no request of class upload is at work"):
        scene.admission.release(UPLOAD)

    assert scene.admission.running == 1


# ── half-written answers ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_half_written_answer_goes_before_all_requests() -> None:
    scene = Scene(options(places=1, shares={}))
    scene.offer(UPLOAD)
    scene.offer(READ, 2)
    scene.now = 0.5
    may_run = scene.resume("download")

    words = scene.release(UPLOAD)

    assert not may_run
    assert words == [("download", None)]


def test_a_half_written_answer_is_never_refused() -> None:
    scene = Scene(options(places=1, queue=0))
    scene.offer(READ)
    for number in range(100):
        scene.resume(f"download {number}")
    scene.now = 1000 * MAX_WAIT

    words = [scene.decided(), *(scene.release(READ) for _ in range(100))]

    assert words == [[], *([(f"download {number}", None)] for number in range(100))]


def test_half_written_answers_leave_the_others_what_they_are_guaranteed() -> None:
    scene = Scene(options(places=4))
    scene.offer(READ, 4)
    for number in range(8):
        scene.resume(f"download {number}")
    scene.offer(UPLOAD, 2)

    words = [scene.release(READ), scene.release(READ)]

    assert words == [[("upload 1", None)], [("download 0", None)]]


def test_a_half_written_answer_that_finds_a_place_runs_at_once() -> None:
    scene = Scene(options(places=1))

    may_run = scene.resume("download")

    assert may_run
    assert scene.admission.running_of(READ) == 1


# ── room in the queue ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_queue_that_is_full_refuses_at_once() -> None:
    scene = Scene(options(places=1, queue=8))

    decisions = scene.offer(READ, 1 + 9)

    assert decisions == [Decision.ADMITTED, *([Decision.QUEUED] * 8), Reason.QUEUE_FULL]


@pytest.mark.parametrize(("flood", "other", "room"), [(UPLOAD, READ, 4), (READ, UPLOAD, 2), (READ, BACKGROUND, 2)])
def test_a_flood_of_one_class_leaves_the_others_their_room(
    flood: RequestClass, other: RequestClass, room: int
) -> None:
    scene = Scene(options(places=1, queue=8))
    scene.offer(flood, 1 + 8)

    decisions = scene.offer(other, room + 1)

    assert decisions == [*([Decision.QUEUED] * room), Reason.QUEUE_FULL]
    assert scene.admission.waiting == 8


def test_who_gives_room_back_is_the_youngest_of_the_least_important() -> None:
    scene = Scene(options(places=1, queue=8))
    scene.offer(READ, 1)
    scene.offer(UPLOAD, 4)
    scene.offer(BACKGROUND, 4)

    scene.offer(READ, 3)

    instant = scene.admission.next_instant()
    assert scene.decided() == [
        ("background 4", Reason.QUEUE_FULL),
        ("background 3", Reason.QUEUE_FULL),
        ("upload 4", Reason.QUEUE_FULL),
    ]
    assert instant == -inf


def test_a_displaced_request_whose_client_left_gets_no_second_word() -> None:
    scene = Scene(options(places=1, queue=1, shares={READ: 1.0}))
    scene.offer(UPLOAD, 2)
    scene.offer(READ)

    was_waiting = scene.admission.withdraw("upload 2")

    assert was_waiting
    assert scene.decided() == []
    assert scene.admission.next_instant() == MAX_WAIT


# ── waits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_has_waited_as_long_as_it_may_is_refused_without_a_free_place() -> None:
    scene = Scene(options(places=1))
    scene.offer(READ, 2)
    scene.now = 1.0
    scene.offer(UPLOAD)
    instant = scene.admission.next_instant()
    scene.now = MAX_WAIT

    words = scene.decided()

    assert instant == MAX_WAIT
    assert words == [("read 2", Reason.DEADLINE)]
    assert scene.admission.next_instant() == MAX_WAIT + 1.0


def test_nothing_has_to_be_asked_again_while_nothing_waits() -> None:
    scene = Scene(options(places=1))
    scene.offer(READ)
    scene.resume("download")

    assert scene.admission.next_instant() is None


def test_a_request_whose_client_left_frees_its_room() -> None:
    scene = Scene(options(places=1, queue=1))
    scene.offer(READ, 2)

    withdrawals = [scene.admission.withdraw("read 2") for _ in range(2)]

    assert withdrawals == [True, False]
    assert scene.offer(READ) == [Decision.QUEUED]
    assert scene.release(READ) == [("read 3", None)]


def test_a_request_at_work_is_not_withdrawn() -> None:
    scene = Scene(options(places=1))
    scene.offer(READ)

    assert not scene.admission.withdraw("read 1")
    assert scene.admission.running == 1


def test_a_ticket_waits_once() -> None:
    scene = Scene(options(places=1))
    scene.offer(READ, 2)

    with pytest.raises(ValueError, match="'read 2' waits already"):
        scene.resume("read 2")
    with pytest.raises(ValueError, match="'read 2' waits already"):
        scene.admission.offer("read 2", UPLOAD, 0.0)


def test_the_longest_wait_is_that_of_the_oldest_request() -> None:
    scene = Scene(options(places=1))
    scene.offer(UPLOAD, 2)
    scene.now = 2.0
    scene.offer(READ)

    assert scene.admission.longest_wait_seconds(3.0) == 3.0
    assert Scene(options()).admission.longest_wait_seconds(3.0) == 0.0


def test_what_happens_while_the_words_are_heard_counts_at_once() -> None:
    scene = Scene(options(places=2, shares={}))
    scene.offer(READ, 2 + 3)
    scene.admission.release(READ)
    scene.admission.release(READ)
    heard = []

    for ticket, _ in scene.admission.next(0.0):
        heard.append(ticket)
        scene.admission.withdraw("read 4")

    assert heard == ["read 3", "read 5"]


# ── a queue that stands ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_queue_that_stands_lets_nobody_join_behind_an_old_request() -> None:
    scene = standing()

    assert scene.offer(READ) == [Reason.QUEUE_DELAY]
    assert scene.admission.refuses(READ, scene.now) is Reason.QUEUE_DELAY


def test_a_queue_that_stands_keeps_no_other_class_out() -> None:
    scene = standing()

    assert scene.offer(UPLOAD) == [Decision.QUEUED]


def test_one_that_is_as_short_as_what_is_at_work_lets_requests_join() -> None:
    scene = standing()
    for number in (6, 7, 8, 9):
        scene.admission.withdraw(f"read {number}")

    decisions = scene.offer(READ, 2)

    assert decisions == [Decision.QUEUED, Reason.QUEUE_DELAY]


def test_after_an_interval_without_a_refusal_a_burst_is_taken_up_again() -> None:
    scene = standing()
    scene.now += INTERVAL - 0.5
    first = scene.offer(READ)
    scene.now += INTERVAL - 0.5
    second = scene.offer(READ)
    scene.now += INTERVAL

    third = scene.offer(READ)

    assert (first, second, third) == ([Reason.QUEUE_DELAY], [Reason.QUEUE_DELAY], [Decision.QUEUED])


def test_a_round_of_work_that_waits_is_never_dropped() -> None:
    scene = Scene(options(places=3, queue=20, shares={}))
    scene.offer(READ, 3 + 2)
    words = []

    for _ in range(8):
        scene.now += 10 * TARGET
        words += scene.release(READ)
        scene.offer(READ)

    assert [reason for _, reason in words] == [None] * 8


def test_the_last_one_of_a_queue_is_never_dropped() -> None:
    scene = Scene(options(places=1, queue=20, shares={}))
    scene.offer(READ, 1 + 2)
    scene.now = 2.0
    first = scene.release(READ)
    scene.now = 40.0

    second = scene.release(READ)

    assert (first, second) == ([("read 2", None)], [("read 3", None)])


def test_a_queue_that_was_empty_begins_anew() -> None:
    scene = Scene(options(places=2, queue=20, shares={}))
    scene.offer(READ, 2 + 4)
    scene.now = 2.0
    scene.release(READ)
    for number in (4, 5, 6):
        scene.admission.withdraw(f"read {number}")
    scene.now = 17.0
    scene.offer(READ, 4)
    scene.now = 18.5

    assert scene.release(READ) == [("read 7", None)]


def test_one_more_than_a_round_of_work_counts_as_a_queue() -> None:
    scene = Scene(options(places=2, queue=20, shares={}))
    scene.offer(READ, 2 + 3)
    scene.now = 2.0
    first = scene.release(READ)
    scene.offer(READ, 1)
    scene.now = 18.0

    second = scene.release(READ)

    assert (first, second) == ([("read 3", None)], [("read 4", Reason.QUEUE_DELAY), ("read 5", None)])


def test_a_wait_of_exactly_the_target_keeps_nobody_out() -> None:
    scene = standing()
    for number in (6, 7, 8, 9, 10):
        scene.admission.withdraw(f"read {number}")
    scene.offer(READ, 2)
    scene.now += TARGET

    assert scene.offer(READ) == [Decision.QUEUED]


def test_a_request_does_not_take_the_place_that_another_waits_for() -> None:
    scene = Scene(options(places=1))
    scene.offer(READ, 2)
    scene.admission.release(READ)

    decisions = scene.offer(READ)

    assert decisions == [Decision.QUEUED]
    assert scene.decided() == [("read 2", None)]


def test_a_burst_is_taken_up_whole() -> None:
    scene = Scene(AdmissionOptions(max_concurrent=50, max_queue=1000, max_wait_seconds=15.0))
    scene.offer(READ, 500)
    reasons: Counter[Reason | None] = Counter()

    for _ in range(500):
        scene.now += 0.1 / 500  # the whole of it is done within the interval
        reasons.update(reason for _, reason in scene.release(READ))

    assert reasons == {None: 450}


# ── limits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("max_concurrent", 0, "at least 1"),
        ("max_queue", -1, "at least 0"),
        ("max_wait_seconds", 0.0, "greater than 0"),
        ("target_seconds", 0.0, "greater than 0"),
        ("interval_seconds", 0.005, r"greater than target_seconds \(0.005\)"),
        ("shares", {READ: 1.5}, r"each in \[0, 1\]"),
        ("shares", {READ: 0.6, UPLOAD: 0.6}, "together at most 1"),
    ],
)
def test_limits_that_cannot_work_are_refused_with_their_rule(name: str, value: object, rule: str) -> None:
    given_limits = {"max_concurrent": 1, "max_queue": 1, "max_wait_seconds": 1.0, name: value}

    with pytest.raises(ValueError, match=f"{name} is .*; it must be {rule}"):
        AdmissionOptions(**given_limits)  # type: ignore[arg-type]  # the wrong types are among what is tried


def test_shares_that_are_one_in_decimal_are_one() -> None:
    limits = options(places=100, shares={READ: 0.29, UPLOAD: 0.58, BACKGROUND: 0.13})

    scene = Scene(limits)
    scene.offer(BACKGROUND, 100)
    scene.offer(READ, 8)

    assert [scene.admission._lanes[each].guaranteed for each in RequestClass] == [29, 58, 13]


# ── when to come again ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wait", "soonest", "latest"),
    [(0.0, 1, 3), (0.4, 1, 3), (1.0, 1, 3), (1.1, 2, 5), (3.0, 3, 7), (5.0, 5, 10), (100.0, 5, 10), (inf, 5, 10)],
)
def test_clients_come_again_spread_over_what_the_queue_takes(wait: float, soonest: int, latest: int) -> None:
    seconds = {retry_after_seconds(wait, lambda draw=draw: draw / 1000) for draw in range(1000)}  # type: ignore[misc]  # the default binds the draw

    assert seconds == set(range(soonest, latest + 1))
