"""The steps of the drain drill: instances are stopped one after the other, and no client may notice."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from app.ops.admission import Reason
from app.photos.models import Photo
from tests.drills.crowd import STREAM_BYTES, Clients, traffic_of
from tests.drills.group import IDLE_LINGER_SECONDS, Group
from tests.drills.journal import Journal
from tests.servers.client import new_photo
from tests.servers.haproxy import Probing
from tests.servers.product import Product, until

_SERIES_SECONDS = 880.0
_SHOWN_LOSSES = 8
_ERROR = 500
_LOG_SECONDS = 10.0
_MOST_EXCUSED = 0.02
_IN_FLIGHT, _LEAST_IN_FLIGHT = "photo_api_in_flight_requests", 2
_LONGEST_STOP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class DrainPlan:
    """The parameters of a drill.

    Attributes:
        name: For its first line.
        stops: How many by each way of stopping.
        reloads: How many in place.
        stream_seconds: How long a slow client takes.
        lame_duck_seconds: How long an instance serves on after its readiness is gone.
        linger_seconds: How long a worker that ends leaves idle connections to who may be about to use them.
        probing: How the balancer probes.
    """

    name: str
    stops: int
    reloads: int
    stream_seconds: float
    lame_duck_seconds: float = 1.5
    linger_seconds: float = IDLE_LINGER_SECONDS
    probing: Probing = field(default_factory=Probing)

    def settings(self) -> dict[str, str]:
        """Return the settings of the instances."""
        return {
            "PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS": f"{self.lame_duck_seconds:g}",
            "PHOTO_API_SERVER__GRACEFUL_TIMEOUT_SECONDS": "30",
            "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**40),
            "PHOTO_API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
            "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
        }


FULL = DrainPlan(name="20 stops by each way, streams of 20 s", stops=20, reloads=10, stream_seconds=20.0)
SHORT = DrainPlan(
    # As long as the balancer needs to notice, and as it may stand still on a busy machine.
    name="2 stops by each way, streams of 2 s",
    stops=2,
    reloads=2,
    stream_seconds=2.0,
    lame_duck_seconds=4.0,
    linger_seconds=5.0,
)


class DrainDrill:
    """The drill on a running group.

    Args:
        group: Two instances behind a balancer.
        plan: Its parameters.
        journal: Hears of everything.
    """

    def __init__(self, group: Group, plan: DrainPlan, journal: Journal) -> None:
        self._group = group
        self._plan = plan
        self._journal = journal
        self._excused_before = 0
        self._client = group.instances[0].new_user()
        self._photo = self._client.upload(new_photo(STREAM_BYTES))

    def run(self) -> None:
        """Run all steps.

        Raises:
            DrillFailedError: A request was lost, or something else was not as it should be.
        """
        self._journal.say(f"With {self._plan.name}; probes every {self._plan.probing.interval_ms} ms,")
        self._journal.say(f"retries off, a lame duck of {self._plan.lame_duck_seconds:g} s.")
        self.stop_by_signal()
        self.stop_by_command()
        self.reload()

    def stop_by_signal(self) -> None:
        """Step 1: SIGTERM to the master, as from systemd."""
        self._journal.step(f"1. {self._plan.stops} stops by SIGTERM, one instance after the other")
        self._stop_in_turn(lambda product: os.kill(product.pid, signal.SIGTERM))

    def stop_by_command(self) -> None:
        """Step 2: the drain command, as from a scale-in."""
        self._journal.step(f"2. {self._plan.stops} stops by `python -m app drain`")
        self._stop_in_turn(lambda product: product.command("drain"))

    def reload(
        self, renew: Callable[[Product], object] = lambda product: os.kill(product.pid, signal.SIGHUP)
    ) -> None:
        """Step 3: SIGHUP, new workers in the same master.

        Args:
            renew: Brings the new workers; another way than SIGHUP is a control.
        """
        self._journal.step(f"3. {self._plan.reloads} restarts in place by SIGHUP")
        with self._clients() as clients:
            for number in range(self._plan.reloads):
                product = self._group.instances[number % len(self._group.instances)]
                self._wait_for_slow_requests(product)
                before, began = product.worker_pids(), time.monotonic()
                renew(product)
                until(lambda p=product, b=before: not b & p.worker_pids() and p.is_ready(), "new workers", 60)  # type: ignore[misc]  # mypy knows no types of a lambda's defaults
                self._journal.did(f"vm{number % 2}: all workers are new after {time.monotonic() - began:.1f} s")
                self._check_no_loss(clients)
            self._group.wait_until_up()
            self._journal.did("the balancer sends requests to every instance")

    def _stop_in_turn(self, stop: Callable[[Product], object]) -> None:
        with self._clients() as clients:
            for number in range(self._plan.stops):
                place = number % len(self._group.instances)
                product, uploads = self._group.instances[place], clients.good("uploads")
                in_flight = self._wait_for_slow_requests(product)
                self._journal.did(f"vm{place} is told to stop, with {in_flight} requests in flight")
                began = time.monotonic()
                stop(product)
                code = product.wait(_LONGEST_STOP_SECONDS)
                took = time.monotonic() - began
                uploads = clients.good("uploads") - uploads
                self._journal.did(f"vm{place} ended after {took:.1f} s; uploads answered meanwhile: {uploads}")
                self._journal.check(code == 0, f"its exit code: {code}")
                product.start()
                self._group.wait_until_up()
                self._check_no_loss(clients)

    def _wait_for_slow_requests(self, product: Product) -> int:
        """Wait until an instance has requests in flight that will outlast the lame duck; return how many."""
        seen = [0.0]

        def are_enough() -> bool:
            seen[0] = product.metric(_IN_FLIGHT)
            return seen[0] >= _LEAST_IN_FLIGHT

        until(are_enough, "streams in flight", _LONGEST_STOP_SECONDS)
        return round(seen[0])

    @contextmanager
    def _clients(self) -> Iterator[Clients]:
        before, self._excused_before = self._ready_photos(), self._excused()
        traffic = traffic_of(self._client, self._photo, self._plan.stream_seconds, _SERIES_SECONDS)
        with Clients(self._group.target, traffic) as clients:
            until(lambda: clients.good("uploads") and clients.good("reads, kept"), "traffic")
            yield clients
        self._check_no_loss(clients)
        for record in clients.records:
            tally = record.tally()
            self._journal.did(
                f"{tally.offered} {record.name}: {tally.good} good, the slowest within {tally.good_ms.longest:.0f} ms"
            )
        stored, told = self._ready_photos() - before, clients.good("uploads") + clients.good("slow uploads")
        self._journal.check(stored == told, f"{told} uploads were answered with 201, {stored} photos are there")

    def _check_no_loss(self, clients: Clients) -> None:
        lost, refused = clients.lost(), clients.refused()
        ends = time.monotonic() + _LOG_SECONDS
        while refused > self._excused() - self._excused_before and time.monotonic() < ends:
            time.sleep(0.1)  # the log tells of refusals once a second
        excused = self._excused() - self._excused_before
        unexcused = refused - min(refused, excused, int(clients.ended() * _MOST_EXCUSED))
        if lost or unexcused:
            self._tell_of_losses(clients)
            lost |= {"refused": unexcused} if unexcused else {}
        excuse = f"; refused while this machine was too busy: {refused}" if refused else ""
        self._journal.check(not lost, f"requests lost so far: {lost or 0}{excuse}")

    def _excused(self) -> int:
        """Return how many requests were refused because a queue stood: a matter of this machine, not of any stop."""
        lines = [line for product in self._group.instances for line in product.log_lines()]
        return sum(line.get(f"refused_{Reason.QUEUE_DELAY}", 0) for line in lines)

    def _tell_of_losses(self, clients: Clients) -> None:
        for name, loss in clients.losses()[:_SHOWN_LOSSES]:
            self._journal.say(f"      {name}: {loss}")
        for line in self._group.balancer.failed_lines()[-_SHOWN_LOSSES:]:
            self._journal.say(f"      balancer: {line}")
        for number, product in enumerate(self._group.instances):
            for told in [one for one in product.log_lines() if _is_telling(one)][-_SHOWN_LOSSES:]:
                facts = {name: value for name, value in told.items() if value}
                self._journal.say(f"      vm{number}: {json.dumps(facts)}")

    def _ready_photos(self) -> int:
        with self._group.instances[0].stack.database() as connection:
            return int(connection.scalar(select(func.count()).select_from(Photo).where(Photo.state == "ready")) or 0)


def _is_telling(line: Mapping[str, Any]) -> bool:
    return line["severity_text"] != "INFO" or (line["status"] or 0) >= _ERROR
