"""Admission: which requests of one worker are at work, which wait, and which are refused.

::

    offer ──▶ a place is free for its class, nobody waits for it ────▶ at work (max_concurrent places) ──▶ release
       │                                                                  ▲
       ├────▶ queue of its class ──▶ oldest ──▶ judged by CoDel ──────────┤ next: one for every free place
       │        │        │                         └▶ QUEUE_DELAY         │
       │        │        └▶ DEADLINE: waited max_wait_seconds             │
       │        └▶ QUEUE_FULL: its room was lent and is wanted back       │
       ├────▶ QUEUE_FULL · QUEUE_DELAY, at once                           │
       │                                                                  │
    resume (a half-written answer) ──▶ lane of its class, no limit ───────┘ before the queue, never refused

**Who gets a place that comes free.** First the classes that wait and have less than their guarantee, in the order of
their importance; then half-written answers, longest wait first; then the request that has waited longest, whatever
its class. Within a class half-written answers go before requests, and both are first come, first served.

**Lending.** A class lends what it does not use, but only to more important ones. No work is interrupted, and an
upload keeps its place for as long as its client sends: what reads are guaranteed would be gone while 200 slow clients
upload. So reads may have all places, uploads with background work all but those of reads, and background work all but
those of both; one at least.

**Guarantees** are share · places, rounded down, and one place for every class with a share where that fits. Where it
does not (one or two places), what is guaranteed to nobody goes by age, so every class with a share still gets on.

**Room in the queue** is lent to all: a class may use all of it while the others do not want theirs. A
request that finds the queue full while its class has less than its room takes the room of the youngest request of the
least important class that has more: that one is refused, as it would have been had it come a moment later.

**A queue that stands** is one whose shortest wait was above the target for an interval (CoDel, RFC 8289). Requests
that leave it are then dropped as there, which suits senders that slow down; those who send requests do not. So, from
its first drop on, nobody joins that queue while its oldest request has waited longer than the target, until an
interval has passed in which nobody was refused. A burst is taken up whole; a lasting overload is refused at once and
not after a wait. A queue with no more requests than its class has at work never counts as one that stands: it is the
next round of work, and as long as the work itself. (RFC 8289 says so of the last packet.)

Everything here belongs to the thread of the worker's event loop: there is no lock, no clock and no I/O. Every
operation takes constant time. Probes never get here.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, floor, inf
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from app.stability.codel import CoDel

TicketT = TypeVar("TicketT", bound=Hashable)


class RequestClass(enum.StrEnum):
    """What a request is, in the order of importance."""

    READ = "read"
    UPLOAD = "upload"
    BACKGROUND = "background"


class Reason(enum.StrEnum):
    """Why a request got no place; the label of the metric."""

    QUEUE_FULL = "queue_full"
    """As many requests wait as may, and its class has the room that it is guaranteed."""
    QUEUE_DELAY = "queue_delay"
    """The queue of its class stands."""
    DEADLINE = "deadline"
    """It has waited for as long as a request may."""
    CLIENT_LEFT = "client_left"
    """Its client went away while it waited. Said by the worker, not in here."""
    STOPPING = "stopping"
    """The worker stops. Said by the worker, not in here."""


class Decision(enum.Enum):
    """What becomes of a request that is not refused."""

    ADMITTED = enum.auto()
    """It has a place and may run now."""
    QUEUED = enum.auto()
    """It waits; :meth:`Admission.next` gives its final word."""


SHARES: Final[Mapping[RequestClass, float]] = MappingProxyType(
    {RequestClass.READ: 0.5, RequestClass.UPLOAD: 0.25, RequestClass.BACKGROUND: 0.05}
)
"""What each class is guaranteed of the places and of the queue; the rest is nobody's and lent."""

HALF_WRITTEN_MAX: Final = 512
"""Answers of one worker that wait for their slow clients; of more, the worker gives up those that are slowest.

Each of them holds what it is read from, such as a connection to the object store: pools are made for so many.
"""

LONGEST_RETRY_AFTER_SECONDS: Final = 10
"""No client is asked to stay away for longer; by then a balancer or an autoscaler has done something."""

_DIGITS: Final = 9
_NOW: Final = -inf


@dataclass(frozen=True, kw_only=True)
class AdmissionOptions:
    """The limits of one worker.

    Attributes:
        max_concurrent: Places: requests at work at once, at least 1.
        max_queue: Requests that may wait, at least 0. Half-written answers are not counted.
        max_wait_seconds: The longest wait, greater than 0.
        shares: The guaranteed part of places and queue by class, each in [0, 1], together at most 1; a class that is
            not named is guaranteed nothing.
        target_seconds: A wait that may last, greater than 0.
        interval_seconds: How long the wait has to be above it, greater than the target.

    Raises:
        ValueError: One of them is out of its range.
    """

    max_concurrent: int
    max_queue: int
    max_wait_seconds: float
    shares: Mapping[RequestClass, float] = field(default_factory=lambda: SHARES)
    target_seconds: float = 0.005
    interval_seconds: float = 0.1

    def __post_init__(self) -> None:
        for name, value, holds, rule in (
            ("max_concurrent", self.max_concurrent, self.max_concurrent >= 1, "at least 1"),
            ("max_queue", self.max_queue, self.max_queue >= 0, "at least 0"),
            ("max_wait_seconds", self.max_wait_seconds, self.max_wait_seconds > 0, "greater than 0"),
            ("target_seconds", self.target_seconds, self.target_seconds > 0, "greater than 0"),
            (
                "interval_seconds",
                self.interval_seconds,
                self.interval_seconds > self.target_seconds,
                f"greater than target_seconds ({self.target_seconds:g})",
            ),
            ("shares", dict(self.shares), all(0 <= share <= 1 for share in self.shares.values()), "each in [0, 1]"),
            ("shares", dict(self.shares), round(sum(self.shares.values()), _DIGITS) <= 1, "together at most 1"),
        ):
            if not holds:
                raise ValueError(f"{name} is {value!r}; it must be {rule}")


class _Lane(Generic[TicketT]):
    """One class.

    Attributes:
        importance: Its rank; 0 is the most important.
        guaranteed: Places that it gets in any case.
        most: Places that it may have together with all that are less important.
        room: Requests of it that may wait in any case.
        running: Places that it has.
        queue: Its requests that wait, oldest first, each with the instant of its offer.
        resumed: Its half-written answers that wait, oldest first.
        codel: Judge of the queue.
        guarded_until: Before this instant nobody joins the queue behind one that has waited for long.
    """

    __slots__ = ("codel", "guaranteed", "guarded_until", "importance", "most", "queue", "resumed", "room", "running")

    def __init__(self, importance: int, guaranteed: int, most: int, room: int, codel: CoDel) -> None:
        self.importance = importance
        self.guaranteed = guaranteed
        self.most = most
        self.room = room
        self.running = 0
        self.queue: OrderedDict[TicketT, float] = OrderedDict()
        self.resumed: OrderedDict[TicketT, float] = OrderedDict()
        self.codel = codel
        self.guarded_until = _NOW


class Admission(Generic[TicketT]):
    """Decides over the requests of one worker. Not thread-safe: it belongs to the thread of the event loop.

    A ticket stands for a request and is compared by its hash; the same ticket cannot wait twice at once. All instants
    are monotonic seconds and do not go back.

    Args:
        options: The limits.
    """

    __slots__ = (
        "_displaced",
        "_interval",
        "_lane_of",
        "_lanes",
        "_limit",
        "_max_queue",
        "_max_wait",
        "_ordered",
        "_running",
        "_target",
        "_waiting",
    )

    def __init__(self, options: AdmissionOptions) -> None:
        self._limit = options.max_concurrent
        self._max_queue = options.max_queue
        self._max_wait = options.max_wait_seconds
        self._target = options.target_seconds
        self._interval = options.interval_seconds
        shares = [options.shares.get(request_class, 0.0) for request_class in RequestClass]
        guaranteed = _guarantees(shares, options.max_concurrent)
        rooms = _guarantees(shares, options.max_queue)
        self._ordered: tuple[_Lane[TicketT], ...] = tuple(
            _Lane(
                importance,
                places,
                max(1, options.max_concurrent - sum(guaranteed[:importance])),
                room,
                CoDel(options.target_seconds, options.interval_seconds),
            )
            for importance, (places, room) in enumerate(zip(guaranteed, rooms, strict=True))
        )
        self._lanes = dict(zip(RequestClass, self._ordered, strict=True))
        self._lane_of: dict[TicketT, _Lane[TicketT]] = {}  # of all that wait, half-written answers included
        self._displaced: OrderedDict[TicketT, None] = OrderedDict()  # refused, and not told yet
        self._running = 0
        self._waiting = 0

    @property
    def running(self) -> int:
        """Places that are taken, at most ``max_concurrent``."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait, at most ``max_queue``; without half-written answers."""
        return self._waiting

    @property
    def resuming(self) -> int:
        """Half-written answers that wait for a place."""
        return len(self._lane_of) - self._waiting

    def running_of(self, request_class: RequestClass) -> int:
        """Return how many places a class has."""
        return self._lanes[request_class].running

    def waiting_of(self, request_class: RequestClass) -> int:
        """Return how many requests of a class wait; without half-written answers."""
        return len(self._lanes[request_class].queue)

    def longest_wait_seconds(self, now: float) -> float:
        """Return for how long the oldest request that waits has waited, 0 when none does."""
        return max(
            0.0, now - min((next(iter(lane.queue.values())) for lane in self._ordered if lane.queue), default=now)
        )

    def offer(self, ticket: TicketT, request_class: RequestClass, now: float) -> Decision | Reason:
        """Take a request whose head has been read.

        Args:
            ticket: Stands for it.
            request_class: What it is.
            now: The monotonic instant, in seconds.

        Returns:
            Whether it has a place (which :meth:`release` gives back) or waits (until :meth:`next` or :meth:`withdraw`
            names it); or why it is refused, in which case it is forgotten.

        Raises:
            ValueError: The ticket waits already.
        """
        lane = self._lanes[request_class]
        if self._is_free(lane):
            lane.running += 1
            self._running += 1
            return Decision.ADMITTED
        self._refuse_double(ticket)
        reason = self.refuses(request_class, now)
        if reason is not None:
            return reason
        if not lane.queue:
            lane.codel.empty()
        if self._waiting >= self._max_queue:
            self._displace()
        lane.queue[ticket] = now
        self._lane_of[ticket] = lane
        self._waiting += 1
        return Decision.QUEUED

    def refuses(self, request_class: RequestClass, now: float) -> Reason | None:
        """Return why a request would be refused now, so that nobody waits for its body.

        To ask is to have it refused: a queue that stands counts the answer.

        Args:
            request_class: What it is.
            now: The monotonic instant, in seconds.

        Returns:
            The reason; None when it would get a place or could wait.
        """
        lane = self._lanes[request_class]
        if self._is_free(lane):
            return None
        if (
            now < lane.guarded_until
            and len(lane.queue) >= max(1, lane.running)
            and now - _oldest_queued(lane) > self._target
        ):
            lane.guarded_until = now + self._interval
            return Reason.QUEUE_DELAY
        if self._waiting >= self._max_queue and len(lane.queue) >= lane.room:
            return Reason.QUEUE_FULL
        return None

    def resume(self, ticket: TicketT, request_class: RequestClass, now: float) -> bool:
        """Take a half-written answer whose client can read again.

        Args:
            ticket: Stands for it.
            request_class: Of the request that it answers.
            now: The monotonic instant, in seconds.

        Returns:
            Whether it has a place. If not, it waits until :meth:`next` gives it one; it is never refused.

        Raises:
            ValueError: The ticket waits already.
        """
        lane = self._lanes[request_class]
        if self._is_free(lane):
            lane.running += 1
            self._running += 1
            return True
        self._refuse_double(ticket)
        lane.resumed[ticket] = now
        self._lane_of[ticket] = lane
        return False

    def release(self, request_class: RequestClass) -> None:
        """Take a place back; :meth:`next` is called afterwards.

        Args:
            request_class: What it was admitted as.

        Raises:
            ValueError: The class has no place.
        """
        lane = self._lanes[request_class]
        if not lane.running:
            raise ValueError(f"no request of class {request_class} is at work")
        lane.running -= 1
        self._running -= 1

    def next(self, now: float) -> Iterator[tuple[TicketT, Reason | None]]:
        """Yield what can be decided now, deciding it as it is yielded.

        What happens in between, a release or a withdrawal, counts at once; whatever is not asked for stays undecided.

        Args:
            now: The monotonic instant, in seconds.

        Yields:
            A ticket that waited, and why it is refused; None when it has a place now.
        """
        while self._displaced:
            yield self._displaced.popitem(last=False)[0], Reason.QUEUE_FULL
        if not self._lane_of:
            return
        for lane in self._ordered:
            while lane.queue and now - next(iter(lane.queue.values())) >= self._max_wait:
                yield self._leave(lane), Reason.DEADLINE
        while self._running < self._limit:
            picked = self._pick()
            if picked is None:
                return
            yield self._decide(picked, now)

    def withdraw(self, ticket: TicketT) -> bool:
        """Forget a ticket that waits.

        Args:
            ticket: It.

        Returns:
            Whether it waited. If not, it has a place or had its final word.
        """
        lane = self._lane_of.pop(ticket, None)
        if lane is None:
            if ticket not in self._displaced:
                return False
            del self._displaced[ticket]
            return True
        if ticket in lane.queue:
            del lane.queue[ticket]
            self._waiting -= 1
        else:
            del lane.resumed[ticket]
        return True

    def next_instant(self) -> float | None:
        """Return when :meth:`next` speaks though no place came free; ``-inf`` for now, None for never."""
        if self._displaced:
            return _NOW
        if not self._waiting:
            return None
        return min(next(iter(lane.queue.values())) for lane in self._ordered if lane.queue) + self._max_wait

    def _refuse_double(self, ticket: TicketT) -> None:
        if ticket in self._lane_of or ticket in self._displaced:
            raise ValueError(f"{ticket!r} waits already")

    def _displace(self) -> None:
        # One exists: the queue is full, and the class that asks has less than its room.
        lender = next(lane for lane in reversed(self._ordered) if len(lane.queue) > lane.room)
        ticket, _ = lender.queue.popitem()
        del self._lane_of[ticket]
        self._waiting -= 1
        self._displaced[ticket] = None

    def _is_free(self, lane: _Lane[TicketT]) -> bool:
        """Tell whether there is a place for a class, and nobody waits for it."""
        if self._running >= self._limit or not self._may_have(lane):
            return False
        return not self._lane_of or self._pick() is None

    def _may_have(self, lane: _Lane[TicketT]) -> bool:
        """Tell whether a place that is free is lent to a class, or its own."""
        if lane.most == self._limit:
            return True
        running = 0
        for one in reversed(self._ordered):
            running += one.running
            if running >= one.most and one.importance <= lane.importance:
                return False
        return True

    def _pick(self) -> _Lane[TicketT] | None:
        """Return the class that gets the next place."""
        oldest = None
        for lane in self._ordered:
            if not (lane.resumed or lane.queue) or not self._may_have(lane):
                continue
            if lane.running < lane.guaranteed:
                return lane
            age = _first(lane)
            if oldest is None or age < _first(oldest):
                oldest = lane
        return oldest

    def _decide(self, lane: _Lane[TicketT], now: float) -> tuple[TicketT, Reason | None]:
        if lane.resumed:
            ticket, _ = lane.resumed.popitem(last=False)
            del self._lane_of[ticket]
        else:
            waited = now - next(iter(lane.queue.values()))
            is_short = len(lane.queue) <= max(1, lane.running)
            ticket = self._leave(lane)
            if lane.codel.drops(now, waited, is_last=is_short):
                lane.guarded_until = now + self._interval
                return ticket, Reason.QUEUE_DELAY
        lane.running += 1
        self._running += 1
        return ticket, None

    def _leave(self, lane: _Lane[TicketT]) -> TicketT:
        ticket, _ = lane.queue.popitem(last=False)
        del self._lane_of[ticket]
        self._waiting -= 1
        return ticket


def retry_after_seconds(wait_seconds: float, random: Callable[[], float]) -> int:
    """Return when a refused client may come again: spread out, so that those refused together do not come together.

    Args:
        wait_seconds: How long requests wait now; the answer is seldom sooner.
        random: Draws from [0, 1).

    Returns:
        Whole seconds, evenly from [w, 2 w + 1] for a wait of w, within [1, 10].
    """
    longest = LONGEST_RETRY_AFTER_SECONDS
    soonest = min(max(1, ceil(min(wait_seconds, longest))), longest // 2)
    latest = min(2 * soonest + 1, longest)
    return soonest + floor(random() * (latest - soonest + 1))


def _guarantees(shares: Iterable[float], limit: int) -> list[int]:
    # Rounded first: 0.29 · 100 is a little less than 29 in binary.
    exact = [round(share * limit, _DIGITS) for share in shares]
    raised = [max(1, floor(places)) if places else 0 for places in exact]
    return raised if sum(raised) <= limit else [floor(places) for places in exact]


def _first(lane: _Lane[TicketT]) -> tuple[bool, float]:
    return (False, next(iter(lane.resumed.values()))) if lane.resumed else (True, _oldest_queued(lane))


def _oldest_queued(lane: _Lane[TicketT]) -> float:
    return next(iter(lane.queue.values()))
