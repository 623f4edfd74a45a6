"""One measurement: capacity first, then a multiple of it for some seconds, with probes all the while.

::

    offered  half of capacity │ FACTOR times capacity    │ half of capacity
             warm-up          │ overload                 │ recovery
             baseline's p99   │ goodput, refusals        │ until all is as before

The probes come from another process, each on a connection of its own, as a load balancer's do.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.load.generator import Generator
from benchmarks.load.probing import probing
from benchmarks.load.records import Outcome, Record, Tally, joined
from benchmarks.load.traffic import Target, Traffic, at_once, scattered
from tests.server.running import children

_SOURCES: Final = 200
_SETTLING_SECONDS: Final = 1.0  # of an overload: queues fill; of a capacity: threads start
_REFUSALS_TO_TELL = 4  # for one good answer
_SLOWER_FACTOR, _SLOWER_SECONDS = 2.0, 0.05
_CAPACITY_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Plan:
    """How long the parts of a measurement take.

    Attributes:
        capacity_seconds: Of each closed loop.
        warm_seconds: At half of capacity, before.
        overload_seconds: At the multiple.
        recovery_seconds: At half of capacity, after.
        probe_timeout_seconds: When a probe is given up.
    """

    capacity_seconds: float = 4.0
    warm_seconds: float = 2.0
    overload_seconds: float = 8.0
    recovery_seconds: float = 4.0
    probe_timeout_seconds: float = 1.0

    @property
    def seconds(self) -> float:
        """All of an open loop."""
        return self.warm_seconds + self.overload_seconds + self.recovery_seconds


@dataclass(frozen=True)
class Work:
    """What is asked of a server.

    Attributes:
        name: For the table.
        mix: Classes of requests and their shares, which sum to 1; their instants are set by the measurement.
        at_once: How many requests at a time find out the capacity; enough to keep every thread at work.
        is_computing: Whether the work is bound by the processor: other goals hold.
    """

    name: str
    mix: tuple[tuple[Traffic, float], ...]
    at_once: int
    is_computing: bool = False


@dataclass(frozen=True)
class Served:
    """Who is measured.

    Attributes:
        target: Where requests go.
        master_pid: Its children do the work, and what they use of the processors is theirs; None: nobody asks.
    """

    target: Target
    master_pid: int | None = None

    def cpu_seconds(self) -> float:
        """Return what the processes that do the work have used until now; NaN when nobody asks."""
        if self.master_pid is None:
            return math.nan
        return sum(_cpu_seconds(pid) for pid in children(self.master_pid))


@dataclass(frozen=True)
class Capacity:
    """What a closed loop gets.

    Attributes:
        per_second: Good answers.
        cpu_seconds: Of the server, for each of them.
    """

    per_second: float
    cpu_seconds: float = math.nan


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        work: What was asked.
        way: How the requests got there.
        factor: The multiple of the capacity that was offered.
        capacity_per_second: Good answers a second of a closed loop, measured just before.
        good_per_second: In the overload, once it had settled.
        load: The requests due in that time.
        classes: Good answers a second by class.
        probes: The probes due in the whole overload.
        recovery_seconds: From the overload's end to the last request that was not answered as before it.
        refusal_cpu_us: What one refusal costs the server; NaN where there are too few to tell.
        late_ms: How late the generator itself was, at the 99th percentile.
        is_computing: Whether the work is bound by the processor.
    """

    work: str
    way: str
    factor: float
    capacity_per_second: float
    good_per_second: float
    load: Tally
    classes: dict[str, float]
    probes: Tally
    recovery_seconds: float
    refusal_cpu_us: float
    late_ms: float
    is_computing: bool

    @property
    def goodput(self) -> float:
        """Good answers in an overload, as a share of the capacity."""
        return self.good_per_second / self.capacity_per_second

    def facts(self) -> dict[str, object]:
        """Return everything for JSON."""
        return {**asdict(self), "goodput": self.goodput}


def measure_capacity(served: Served, work: Work, seconds: float) -> Capacity:
    """Return what a closed loop gets: the better one of kept and of fresh connections.

    Kept ones may all lead to one worker; fresh ones cost more.
    """
    loops = [_closed_loop(served, work, seconds, keeps_connections=keeps) for keeps in (True, False)]
    return max(loops, key=lambda capacity: capacity.per_second)


def _closed_loop(served: Served, work: Work, seconds: float, *, keeps_connections: bool) -> Capacity:
    traffics = [
        replace(
            traffic,
            due=at_once(max(1, round(work.at_once * share))),
            timeout_seconds=_CAPACITY_TIMEOUT_SECONDS,
            keeps_connections=keeps_connections,
        )
        for traffic, share in work.mix
    ]
    before = served.cpu_seconds()
    records = Generator(served.target, traffics, sources=_SOURCES, closed_seconds=seconds).run()
    used = served.cpu_seconds() - before
    ends = [due + took for record in records for due, took, outcome in record.rows() if outcome == Outcome.GOOD]
    good = sum(_SETTLING_SECONDS <= end < seconds for end in ends)
    assert good, f"no good answer at {served.target}"
    return Capacity(good / (seconds - _SETTLING_SECONDS), used / len(ends))


def overload(served: Served, work: Work, factor: float, plan: Plan, *, way: str, capacity: Capacity) -> Finding:
    """Offer a multiple of the capacity and judge what comes of it.

    Args:
        served: The server.
        work: What is asked.
        factor: The multiple.
        plan: How long.
        way: How the requests get there, for the table.
        capacity: Measured just before.
    """
    traffics = [
        replace(traffic, due=_phases(plan, capacity.per_second * share, factor, seed))
        for seed, (traffic, share) in enumerate(work.mix)
    ]
    generator = Generator(served.target, traffics, sources=_SOURCES)
    with probing(served.target, plan.seconds, plan.probe_timeout_seconds) as probes:
        before = served.cpu_seconds()
        records = generator.run()
        used = served.cpu_seconds() - before
        probed = probes.records()
    finding = judge(records, probed, work=work, way=way, factor=factor, plan=plan, capacity=capacity.per_second)
    return replace(finding, refusal_cpu_us=refusal_cpu_us(joined("all", records).tally(), used, capacity))


def refusal_cpu_us(tally: Tally, used: float, capacity: Capacity) -> float:
    """Return what a refusal costs, in microseconds of a processor: what the good answers do not account for.

    Args:
        tally: Of a whole run.
        used: Seconds of processor time in it.
        capacity: What good answers cost.
    """
    if tally.refused < _REFUSALS_TO_TELL * tally.good:
        return math.nan  # the error of what the good ones cost would be greater
    return 1e6 * (used - tally.good * capacity.cpu_seconds) / tally.refused


def _phases(plan: Plan, per_second: float, factor: float, seed: int) -> array[float]:
    overload_at = plan.warm_seconds
    recovery_at = overload_at + plan.overload_seconds
    due = scattered(per_second / 2, plan.warm_seconds, seed=seed)
    due += scattered(per_second * factor, plan.overload_seconds, start=overload_at, seed=seed)
    due += scattered(per_second / 2, plan.recovery_seconds, start=recovery_at, seed=seed)
    return due


def judge(
    records: Sequence[Record],
    probes: Sequence[Record],
    *,
    work: Work,
    way: str,
    factor: float,
    plan: Plan,
    capacity: float,
) -> Finding:
    """Make the line of the table out of what was recorded."""
    all_load = joined("load", records)
    all_probes = joined("probes", probes, origin=all_load.began)
    start, end = plan.warm_seconds + _SETTLING_SECONDS, plan.warm_seconds + plan.overload_seconds
    load = all_load.tally(start, end)
    return Finding(
        work=work.name,
        way=way,
        factor=factor,
        capacity_per_second=capacity,
        good_per_second=load.good / (end - start),
        load=load,
        classes={record.name: record.tally(start, end).good / (end - start) for record in records},
        probes=all_probes.tally(plan.warm_seconds, end),
        recovery_seconds=recovery(all_load, plan),
        refusal_cpu_us=math.nan,
        late_ms=all_load.late_p99_ms(),
        is_computing=work.is_computing,
    )


def recovery(record: Record, plan: Plan) -> float:
    """Return the seconds from the end of an overload until every request was answered well, and as fast as before it.

    As fast means within twice the 99th percentile of the warm-up and 50 ms.
    """
    end = plan.warm_seconds + plan.overload_seconds
    usual_ms = record.tally(0, plan.warm_seconds).good_ms.p99
    limit = _SLOWER_SECONDS + (0.0 if math.isnan(usual_ms) else _SLOWER_FACTOR * usual_ms / 1000)
    bad = (due for due, took, outcome in record.rows(end) if outcome != Outcome.GOOD or took > limit)
    return max(bad, default=end) - end


def _cpu_seconds(pid: int) -> float:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return 0.0  # it has just ended
    user, system = facts.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
