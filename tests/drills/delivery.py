"""The steps of the delivery drill: what readers get while one thing after another is away, and when they are back.

::

    readers ─▶ gunicorn, 2 workers ─▶ fault proxy ─▶ OpenStack Swift with s3api ◀─┐ the same proxy
       │              ├─▶ cuttable proxy ─▶ Redis                                  │
       │              └─▶ PostgreSQL                                               │
       └─▶ fault proxy ─▶ the edge of a CDN, which verifies and keeps copies ──────┘

Cut: the CDN, then storage, then Redis. Back: the CDN, then Redis, then storage.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import update

from app.accounts.models import User
from tests.drills.journal import Journal
from tests.drills.readers import Kind, Readers, Seen
from tests.drills.watch import BreakerWatch
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.postgres_proxy import PostgresProxy
from tests.servers.client import new_photo
from tests.servers.product import Product, until

CDN, REDIS, STORAGE = "cdn", "redis", "storage_read"
OF_THE_API: tuple[Kind, ...] = ("list", "metadata", "links")
"""What needs neither storage nor CDN nor Redis."""
OF_BYTES: tuple[Kind, ...] = ("followed", "original")
PHOTO_BYTES = 200_000
"""Of each photo."""

_AGREED = 20
_CALLS_TO_OPEN, _REDIS_WAIT_SECONDS = 3, 5  # of the pipeline "redis" in config/stability.toml


@dataclass(frozen=True, kw_only=True)
class DeliveryPlan:
    """The parameters of the drill.

    Attributes:
        name: For its first line.
        readers: How many read at the same time.
        photos: How many photos they look at.
        stage_seconds: How long everybody reads before a stage is judged.
        news_seconds: How long the product may take to notice that something is away, or back.
        redis_seconds: The time-out of Redis: what each request waits for a silent one that nobody has given up.
        retakes: How often a stage is judged anew in which links have left their way for a moment. On a busy machine
            a look at the CDN or the store may be late, and links lead past who is late.
    """

    name: str
    readers: int = 4
    photos: int = 6
    stage_seconds: float
    news_seconds: float = 45.0
    redis_seconds: float = 0.05
    retakes: int = 0

    @property
    def redis_ms(self) -> float:
        """What a silent Redis may add to a usual answer; half of what waiting for it once would."""
        return 1000 * self.redis_seconds / 2


FULL = DeliveryPlan(name="half a minute at each stage", stage_seconds=30.0)
SHORT = DeliveryPlan(name="2 s at each stage", stage_seconds=2.0, redis_seconds=0.2, retakes=2)


@dataclass(frozen=True)
class Scene:
    """What runs.

    Attributes:
        product: Two workers.
        edge: Before the edge of the CDN.
        storage: Before the object store, for the product, the edge and who follows a link.
        redis: Before Redis; it carries any protocol.
    """

    product: Product
    edge: FaultProxy
    storage: FaultProxy
    redis: PostgresProxy


class DeliveryDrill:
    """The drill on one running product.

    Args:
        scene: What runs; all of it is well.
        plan: The parameters.
        journal: Hears of everything.
    """

    def __init__(self, scene: Scene, plan: DeliveryPlan, journal: Journal) -> None:
        self._scene = scene
        self._plan = plan
        self._journal = journal
        user = scene.product.new_user()
        with scene.product.stack.database() as connection:
            connection.execute(update(User).where(User.email == user.email).values(is_admin=True))
        user.log_in()
        self._photos = [(str(user.upload(one)["id"]), one) for one in map(new_photo, [PHOTO_BYTES] * plan.photos)]
        self._readers = Readers(user, self._photos, plan.readers)
        self._watch = BreakerWatch(scene.product, user)
        self._usual_ms = self._usual_list_ms = 0.0

    def run(self) -> None:
        """Run all steps.

        Raises:
            DrillFailedError: Something was not as it should be.
        """
        self._journal.say(f"{self._plan.readers} readers of {self._plan.photos} photos, {self._plan.name}.")
        with self.reading():
            for step in (
                self.all_is_well,
                self.cut_cdn,
                self.cut_storage,
                self.cut_redis,
                self.bring_cdn_back,
                self.bring_redis_back,
                self.bring_storage_back,
            ):
                step()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let everybody read; in the end everything is whole again."""
        try:
            with self._readers:
                yield
        finally:
            self._scene.edge.heal()
            self._scene.storage.heal()
            self._scene.redis.heal()
            self._watch.close()

    def all_is_well(self) -> None:
        """Step 1: everything is there, and the edge has its copies in the end."""
        self._journal.step("1. All is well")
        self._come_to("cdn", "all is well", lambda: None)
        seen = self._stage("all is well", "cdn")
        self._check_all_good(seen, *OF_THE_API, *OF_BYTES)
        self._check_via(seen, "cdn")
        self._usual_ms = _milliseconds(_of(seen, "metadata"), 0.5)
        self._usual_list_ms = _milliseconds(_of(seen, "list"), 0.5)
        self._wait(lambda: {"open", "half_open"}.isdisjoint(self._watch.states(REDIS)), "Redis is asked")

    def cut_cdn(self) -> None:
        """Step 2: the edge refuses connections."""
        self._journal.step("2. The CDN is cut: links lead to storage")
        self._come_to("storage", "the CDN goes", self._scene.edge.refuse)
        seen = self._stage("without CDN", "storage")
        self._check_all_good(seen, *OF_THE_API, *OF_BYTES)
        self._check_via(seen, "storage")

    def cut_storage(self) -> None:
        """Step 3: the object store refuses connections, too."""
        self._journal.step("3. Storage is cut, too: bytes can wait, all else goes on")
        self._come_to("origin", "storage goes", self._scene.storage.refuse)
        seen = self._stage("without CDN and storage")
        self._check_all_good(seen, *OF_THE_API)
        self._check_via(seen, "origin")
        self._check_good_or_refused(seen, *OF_BYTES)

    def cut_redis(self) -> None:
        """Step 4: Redis says nothing any more."""
        self._journal.step("4. Redis goes silent, too: a few calls wait for it, then nobody")
        seen = self.silence_redis()
        self._check_all_good(seen, *OF_THE_API)
        self._check_via(seen, "origin")
        self._check_good_or_refused(seen, *OF_BYTES)

    def silence_redis(self) -> list[Seen]:
        """Let Redis say nothing any more, and return what was seen once that was known."""
        before, began = self._watch.calls(REDIS, "failed"), time.monotonic()
        self._readers.begin("Redis goes")
        self._scene.redis.freeze()
        self._wait(lambda: "closed" not in self._watch.states(REDIS), "every worker to give Redis up")
        self._check_no_lie("Redis goes")
        seen = self._stage("without Redis")
        failed = {pid: count - before.get(pid, 0) for pid, count in self._watch.calls(REDIS, "failed").items()}
        asked = len(self._readers.seen("Redis goes", *OF_THE_API)) + len(_of(seen, *OF_THE_API))
        self._journal.check(
            max(failed.values()) <= self._most_calls_of_redis(time.monotonic() - began),
            f"of {asked} requests, {' + '.join(map(str, failed.values()))} calls of Redis failed, by worker",
        )
        median, slowest = _milliseconds(_of(seen, "metadata"), 0.5), _milliseconds(_of(seen, "metadata"), 0.99)
        # A list has nothing to do with Redis: it tells how busy the machine of a test suite is now.
        busy = _milliseconds(_of(seen, "list"), 0.5) / self._usual_list_ms if self._plan.retakes else 1.0
        self._journal.check(
            median <= max(1.0, busy) * self._usual_ms + self._plan.redis_ms,
            f"metadata in {median:.1f} ms (median; p99 {slowest:.1f}; lists took {busy:.1f} times as long), "
            f"{self._usual_ms:.1f} ms when all was well",
        )
        return seen

    def bring_cdn_back(self) -> None:
        """Step 5: the edge is back; it has its copies, and its origin is still away."""
        self._journal.step("5. The CDN is back, first of all: its copies are all that there is")
        self._come_to("cdn", "the CDN comes", self._scene.edge.heal)
        seen = self._stage("with the CDN alone", "cdn")
        self._check_all_good(seen, *OF_THE_API, "followed")
        self._check_via(seen, "cdn")
        self._check_good_or_refused(seen, "original")

    def bring_redis_back(self) -> None:
        """Step 6: Redis answers."""
        self._journal.step("6. Redis is back")
        self._readers.begin("Redis comes")
        self._scene.redis.heal()
        self._wait(lambda: self._watch.states(REDIS) == {"closed"}, "every worker to use Redis again")
        seen = self._stage("without storage", "cdn")
        self._check_all_good(seen, *OF_THE_API, "followed")
        self._check_good_or_refused(seen, "original")

    def bring_storage_back(self) -> None:
        """Step 7: everything is there again."""
        self._journal.step("7. Storage is back: everything is as it was")
        self._readers.begin("storage comes")
        self._scene.storage.heal()
        self._wait(lambda: self._watch.states(STORAGE) == {"closed"}, "every worker to use storage again")
        seen = self._stage("all is well again", "cdn")
        self._check_all_good(seen, *OF_THE_API, *OF_BYTES)
        self._check_via(seen, "cdn")
        told = {
            step: self._scene.product.metric("photo_api_fallback_total", **{"name": "links", "from": a, "to": b})
            for step, a, b in (("cdn to storage", "cdn", "storage"), ("storage to origin", "storage", "origin"))
        }
        self._journal.check(all(told.values()), f"the metric of fallbacks tells of it: {told}")

    def _come_to(self, way: str, stage: str, change: Callable[[], None]) -> None:
        """Change something under load, and wait until all links lead by a way; nobody may be told a lie meanwhile."""
        self._readers.begin(stage)
        began = time.monotonic()
        change()
        self._wait(lambda: self._readers.last_ways(_AGREED) == {way}, f"the last {_AGREED} links to lead by {way}")
        self._journal.did(f"waited {time.monotonic() - began:.1f} s for that")
        self._check_no_lie(stage)

    def _stage(self, stage: str, way: str | None = None) -> list[Seen]:
        """Let everybody read for a while as things are now, and return what they saw.

        Args:
            stage: Its name.
            way: By which links lead; a stage in which they did not is taken again, as often as the plan allows.
        """
        seen = self._taken(stage)
        for number in range(self._plan.retakes):
            if way is None or _ways(seen) == {way}:
                break
            self._journal.did(f"links led by {dict(Counter(one.via for one in _of(seen, 'links')))}: once more")
            self._wait(
                lambda: self._readers.last_ways(_AGREED) == {way}, f"the last {_AGREED} links to lead by {way}"
            )
            seen = self._taken(f"{stage}, take {number + 2}")
        return seen

    def _taken(self, stage: str) -> list[Seen]:
        self._readers.begin(stage)
        ends = time.monotonic() + self._plan.stage_seconds
        least = self._plan.readers * self._plan.photos
        until(lambda: time.monotonic() >= ends and len(self._readers.seen(stage, "list")) >= least, stage, 120)
        self._readers.begin(f"after: {stage}")
        return self._readers.seen(stage)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        ends, holds = time.monotonic() + self._plan.news_seconds, condition()
        while not holds and time.monotonic() < ends:
            time.sleep(0.1)  # between two looks, not instead of one
            holds = condition()
        self._journal.check(holds, what)

    def _most_calls_of_redis(self, seconds: float) -> int:
        """Return how many calls one worker may lose: three that open the breaker while others run, then trials."""
        trials = 2 + round(seconds / _REDIS_WAIT_SECONDS)
        return self._plan.readers * _CALLS_TO_OPEN + trials

    def _check_all_good(self, seen: Sequence[Seen], *kinds: Kind) -> None:
        for kind in kinds:
            asked = _of(seen, kind)
            good = sum(one.is_good for one in asked)
            self._journal.check(asked and good == len(asked), f"{kind}: {_told(asked)}")

    def _check_good_or_refused(self, seen: Sequence[Seen], *kinds: Kind) -> None:
        """A photo that is not at hand is an outage, never a photo that is not there."""
        for kind in kinds:
            asked = _of(seen, kind)
            right = sum(one.is_good or one.is_refusal for one in asked)
            self._journal.check(asked and right == len(asked), f"{kind}: {_told(asked)}, 503 with Retry-After")

    def _check_via(self, seen: Sequence[Seen], way: str) -> None:
        ways = Counter(one.via for one in _of(seen, "links"))
        self._journal.check(set(ways) == {way}, f"links lead by {dict(ways)}")

    def _check_no_lie(self, stage: str) -> None:
        """While news spread, some bytes may not come; what the API itself says is right all the same."""
        until(lambda: all(self._readers.seen(stage, kind) for kind in OF_THE_API), f"something of {stage}", 120)
        seen = self._readers.seen(stage)
        self._check_all_good(seen, *OF_THE_API)
        lies = [one for one in seen if one.status in {404, 410} or (one.status == 200 and not one.is_good)]
        self._journal.check(not lies, f"no photo was said not to be there: bytes {_told(_of(seen, *OF_BYTES))}")


def _of(seen: Sequence[Seen], *kinds: Kind) -> list[Seen]:
    return [one for one in seen if one.kind in kinds]


def _ways(seen: Sequence[Seen]) -> set[str | None]:
    return {one.via for one in _of(seen, "links")}


def _told(seen: Sequence[Seen]) -> str:
    statuses = Counter(one.status for one in seen)
    good = sum(one.is_good for one in seen)
    listed = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
    return f"{100 * good / max(1, len(seen)):.1f} % good of {len(seen)} ({listed})"


def _milliseconds(seen: Sequence[Seen], share: float) -> float:
    ordered = sorted(one.seconds for one in seen)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]
