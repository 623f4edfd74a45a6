"""Every word of an admission is that of a slow and plain model, whatever happens in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ops.admission import Admission, AdmissionOptions, Decision, Reason, RequestClass
from app.stability.codel import CoDel

READ, UPLOAD, BACKGROUND = RequestClass

TARGET = 1.0
INTERVAL = 16.0
MAX_WAIT = 64.0
QUARTERS = {READ: 0.5, UPLOAD: 0.25, BACKGROUND: 0.25}


@dataclass
class Waiter:
    ticket: int
    request_class: RequestClass
    since: float
    is_resumed: bool


@dataclass
class Model:
    """The rules of the module once more, over one list that is searched anew for every word."""

    limits: AdmissionOptions
    running: Counter[RequestClass] = field(default_factory=Counter)
    waiters: list[Waiter] = field(default_factory=list)
    displaced: list[int] = field(default_factory=list)
    judges: dict[RequestClass, CoDel] = field(default_factory=dict)
    guarded_until: dict[RequestClass, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judges = {each: CoDel(TARGET, INTERVAL) for each in RequestClass}
        self.guarded_until = dict.fromkeys(RequestClass, -inf)

    def guarantee(self, request_class: RequestClass, limit: int) -> int:
        floors = {each: int(share * limit) for each, share in self.limits.shares.items()}
        raised = {each: floors[each] or 1 for each, share in self.limits.shares.items() if share and limit}
        fits = sum(raised.values()) <= limit
        return (raised if fits else floors).get(request_class, 0)

    def queue(self, request_class: RequestClass | None = None) -> list[Waiter]:
        return [each for each in self.waiters if not each.is_resumed and request_class in {None, each.request_class}]

    def may_have(self, request_class: RequestClass) -> bool:
        """Places that more important classes are guaranteed are kept from all others, but for one place."""
        limit = self.limits.max_concurrent
        ranks = list(RequestClass)
        for rank, each in enumerate(ranks[: ranks.index(request_class) + 1]):
            kept = sum(self.guarantee(other, limit) for other in ranks[:rank])
            if sum(self.running[other] for other in ranks[ranks.index(each) :]) >= max(1, limit - kept):
                return False
        return True

    def has_place(self, request_class: RequestClass) -> bool:
        return self.may_have(request_class) and self.chosen() is None

    def offer(self, ticket: int, request_class: RequestClass, now: float) -> Decision | Reason:
        if self.has_place(request_class):
            self.running[request_class] += 1
            return Decision.ADMITTED
        own = self.queue(request_class)
        if not own:
            self.judges[request_class].empty()
        elif (
            now < self.guarded_until[request_class]
            and len(own) >= self.running[request_class]
            and now - own[0].since > TARGET
        ):
            self.guarded_until[request_class] = now + INTERVAL
            return Reason.QUEUE_DELAY
        if len(self.queue()) == self.limits.max_queue:
            if len(own) >= self.guarantee(request_class, self.limits.max_queue):
                return Reason.QUEUE_FULL
            lender = [
                each for each in RequestClass if len(self.queue(each)) > self.guarantee(each, self.limits.max_queue)
            ][-1]
            youngest = self.queue(lender)[-1]
            self.waiters.remove(youngest)
            self.displaced.append(youngest.ticket)
        self.waiters.append(Waiter(ticket, request_class, now, is_resumed=False))
        return Decision.QUEUED

    def resume(self, ticket: int, request_class: RequestClass, now: float) -> bool:
        if self.has_place(request_class):
            self.running[request_class] += 1
            return True
        self.waiters.append(Waiter(ticket, request_class, now, is_resumed=True))
        return False

    def next(self, now: float) -> list[tuple[int, Reason | None]]:
        words: list[tuple[int, Reason | None]] = [(ticket, Reason.QUEUE_FULL) for ticket in self.displaced]
        self.displaced = []
        for request_class in RequestClass:
            for waiter in self.queue(request_class):
                if now - waiter.since >= MAX_WAIT:
                    self.waiters.remove(waiter)
                    words.append((waiter.ticket, Reason.DEADLINE))
        while taken := self.chosen():
            is_short = len(self.queue(taken.request_class)) <= max(1, self.running[taken.request_class])
            self.waiters.remove(taken)
            if not taken.is_resumed and self.judges[taken.request_class].drops(
                now, now - taken.since, is_last=is_short
            ):
                self.guarded_until[taken.request_class] = now + INTERVAL
                words.append((taken.ticket, Reason.QUEUE_DELAY))
                continue
            self.running[taken.request_class] += 1
            words.append((taken.ticket, None))
        return words

    def chosen(self) -> Waiter | None:
        importance = list(RequestClass).index
        waiters = [each for each in self.waiters if self.may_have(each.request_class)]
        short_of_guarantee = [
            each
            for each in waiters
            if self.running[each.request_class] < self.guarantee(each.request_class, self.limits.max_concurrent)
        ]
        if short_of_guarantee:
            return min(short_of_guarantee, key=lambda it: (importance(it.request_class), not it.is_resumed, it.since))
        key = lambda it: (not it.is_resumed, it.since, importance(it.request_class))  # noqa: E731  # read where it is used
        return min(waiters, key=key, default=None)

    def withdraw(self, ticket: int) -> bool:
        known = len(self.waiters) + len(self.displaced)
        self.waiters = [each for each in self.waiters if each.ticket != ticket]
        self.displaced = [each for each in self.displaced if each != ticket]
        return len(self.waiters) + len(self.displaced) < known


classes = st.sampled_from(RequestClass)
bursts = st.tuples(classes, st.integers(1, 8))
steps = st.one_of(
    st.tuples(st.just("offer"), bursts),
    st.tuples(st.just("offer"), bursts),
    st.tuples(st.just("resume"), bursts),
    st.tuples(st.just("release"), classes),
    st.tuples(st.just("release"), classes),
    st.tuples(st.just("free"), classes),
    st.tuples(st.just("withdraw"), st.integers(0, 200)),
    st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 1.0, 8.0, 16.0, 40.0])),
    st.tuples(st.just("next"), st.none()),
)
sequences = st.lists(steps, max_size=120)
limits = st.builds(
    AdmissionOptions,
    max_concurrent=st.integers(1, 6),
    max_queue=st.integers(0, 9),
    max_wait_seconds=st.just(MAX_WAIT),
    target_seconds=st.just(TARGET),
    interval_seconds=st.just(INTERVAL),
    shares=st.sampled_from([QUARTERS, {}, {READ: 0.5, UPLOAD: 0.25, BACKGROUND: 0.05}, {UPLOAD: 1.0}]),
)


class Run:
    """One sequence of steps in both, compared at every word."""

    def __init__(self, bounds: AdmissionOptions) -> None:
        self.bounds = bounds
        self.admission: Admission[int] = Admission(bounds)
        self.model = Model(bounds)
        self.now = 0.0
        self.class_of: dict[int, RequestClass] = {}
        self.pending: list[int] = []  # asked for a place, no final word yet
        self.last_words: Counter[int] = Counter()

    def step(self, name: str, value: Any) -> None:
        if name in {"offer", "resume"}:
            for _ in range(value[1]):
                self.ask(name, value[0])
        elif name in {"release", "free"} and self.admission.running_of(value):
            self.admission.release(value)
            self.model.running[value] -= 1
            if name == "release":
                self.hear()
        elif name == "withdraw" and self.pending:
            ticket = self.pending.pop(value % len(self.pending))
            assert self.admission.withdraw(ticket)
            assert self.model.withdraw(ticket)
            self.last_words[ticket] += 1
        elif name == "wait":
            self.now += value
        elif name == "next":
            self.hear()
        self.check()

    def ask(self, name: str, request_class: RequestClass) -> None:
        ticket = len(self.class_of)
        self.class_of[ticket] = request_class
        word = getattr(self.admission, name)(ticket, request_class, self.now)
        assert word == getattr(self.model, name)(ticket, request_class, self.now)
        if word in {Decision.QUEUED, False}:
            self.pending.append(ticket)
        else:
            self.last_words[ticket] += 1

    def hear(self) -> None:
        words = list(self.admission.next(self.now))
        assert words == self.model.next(self.now)
        for ticket, _ in words:
            self.pending.remove(ticket)
            self.last_words[ticket] += 1

    def check(self) -> None:
        assert self.admission.running == self.model.running.total() <= self.bounds.max_concurrent
        assert self.admission.waiting == len(self.model.queue()) <= self.bounds.max_queue
        assert self.admission.resuming == len(self.model.waiters) - len(self.model.queue())
        for request_class in RequestClass:
            assert self.admission.running_of(request_class) == self.model.running[request_class]
            assert self.admission.waiting_of(request_class) == len(self.model.queue(request_class))
        instants = [each.since + MAX_WAIT for each in self.model.queue()]
        expected = -inf if self.model.displaced else min(instants, default=None)
        assert self.admission.next_instant() == expected


@settings(max_examples=400)
@given(bounds=limits, sequence=sequences)
def test_every_word_is_that_of_the_model(bounds: AdmissionOptions, sequence: list[tuple[str, Any]]) -> None:
    run = Run(bounds)

    for name, value in sequence:
        run.step(name, value)

    while run.pending:
        run.hear()
        for request_class in RequestClass:
            run.step("release", request_class)
        run.step("wait", 0.25)
    assert run.last_words == Counter(dict.fromkeys(run.class_of, 1))


@given(bounds=limits, sequence=sequences)
def test_no_place_is_lost_and_none_is_left_free_while_one_waits(
    bounds: AdmissionOptions, sequence: list[tuple[str, Any]]
) -> None:
    run = Run(bounds)

    for name, value in sequence:
        run.step(name, value)
        run.hear()
        assert run.model.chosen() is None
        reads_wait = run.admission.waiting_of(RequestClass.READ)
        assert not reads_wait or run.admission.running == bounds.max_concurrent

    while run.admission.running:
        for request_class in RequestClass:
            run.step("release", request_class)
    assert run.admission.running == 0
    assert not run.pending


@given(bounds=limits, sequence=sequences)
def test_within_a_class_requests_are_taken_in_their_order(
    bounds: AdmissionOptions, sequence: list[tuple[str, Any]]
) -> None:
    admission: Admission[int] = Admission(bounds)
    queued: dict[RequestClass, list[int]] = {each: [] for each in RequestClass}
    now = 0.0

    for number, (name, value) in enumerate(sequence):
        if name == "wait":
            now += value
        elif name == "offer":
            if admission.offer(number, value[0], now) is Decision.QUEUED:
                queued[value[0]].append(number)
        elif name == "release" and admission.running_of(value):
            admission.release(value)
        for ticket, reason in admission.next(now):
            request_class = next(each for each in RequestClass if ticket in queued[each])
            assert ticket == queued[request_class].pop(-1 if reason is Reason.QUEUE_FULL else 0)
