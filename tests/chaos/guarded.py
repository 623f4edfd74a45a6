"""What tests of guarded calls share: a product whose pipelines have short waits, and the same without its guards.

One worker, so that what a breaker, a budget or a bulkhead decides can be counted exactly; what several workers share
is the drill's (``tests/drills``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests
from sqlalchemy import text, update

from app.accounts.models import User
from app.pipelines import NAMES
from app.settings import CONFIG_FOLDER
from tests.chaos.invariants import Baseline
from tests.fakes.fault_proxy import FaultProxy
from tests.servers.client import Client
from tests.servers.product import Product, until
from tests.servers.stacks import Stack

T = TypeVar("T")

ATTEMPTS = 3
BUDGET_FLOOR = 3
MINIMUM = 10
TRIALS = 3
OPEN_SECONDS = 10  # longer than news of an outage takes to reach whoever counts it
PLACES, QUEUE = 4, 2
SLOW_SECONDS = 0.3
BREAKERS = ("storage_read", "storage_write", "storage_delete", "storage_list", "database")

_ROUNDED_SECONDS = 0.06
"""The details of health tell tenths of a second."""

_NEWS_SECONDS = 0.2
"""A process looks ten times a second at what another has decided about a breaker."""

_OF_POLICIES = ("photo_api_circuit_breaker_", "photo_api_retries_", "photo_api_shed_")
"""How the names of what policies count begin: a worker publishes it once a second, and all else at once."""

_QUICK = f"""
[profiles.development.defaults.retry]
base_seconds = 0.01
cap_seconds = 0.05

[profiles.development.pipelines.storage_write.retry]
minimum_attempt_seconds = 0.1
budget_floor = 1000                 # each test has its retries; what the budget does is shown with reads

[profiles.development.pipelines.database_write.retry]
budget_floor = 1000

[profiles.development.defaults.circuit_breaker]
minimum_number_of_calls = {MINIMUM}
sliding_window_size = 20
wait_duration_in_open_state_seconds = {OPEN_SECONDS}
permitted_calls_in_half_open_state = {TRIALS}

[profiles.development.defaults.bulkhead]
max_concurrent_calls = {PLACES}
max_queue_length = {QUEUE}
max_wait_duration_seconds = 0.2
"""

WITH_GUARDS = (CONFIG_FOLDER / "stability.toml").read_text(encoding="utf-8") + _QUICK
"""The pipelines of ``config/stability.toml`` with short waits and few places."""

WITHOUT_OPENING = (
    (CONFIG_FOLDER / "stability.toml").read_text(encoding="utf-8")
    + """
[profiles.development.defaults.retry]
base_seconds = 0.01
cap_seconds = 0.05
budget_floor = 1000

[profiles.development.defaults.circuit_breaker]
minimum_number_of_calls = 1000
sliding_window_size = 1000
"""
)
"""The same with retries for all, and with breakers that do not open."""

WITHOUT_GUARDS = "\n".join(f"[pipelines.{name}]\npolicies = []" for name in NAMES)
"""The same pipelines, and nothing in them."""

WITH_AN_EYE_FOR_SLOWNESS = (
    WITHOUT_GUARDS.replace("[]", '["circuit_breaker"]', 1).replace(
        "[pipelines.database]\npolicies = []", '[pipelines.database]\npolicies = ["circuit_breaker"]'
    )
    + f"""
[pipelines.database.circuit_breaker]
minimum_number_of_calls = 1000      # it only counts: that tells when figures are published
sliding_window_size = 1000

[pipelines.storage_read.circuit_breaker]
minimum_number_of_calls = {MINIMUM}
sliding_window_size = 20
failure_rate_threshold = 1.0
slow_call_duration_threshold_seconds = {SLOW_SECONDS}
slow_call_rate_threshold = 0.5
"""
)
"""The same with nothing but a breaker before reads, which opens when they are slow, and one that never opens."""


class Figures:
    """How far metrics have moved since this was made."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._as_of = -1
        self._before = self._after = self._published()

    def moved(self, metric: str, /, **labels: str) -> float:
        """Return by how much the sum of a metric's samples has grown."""
        samples = self._published() if metric.startswith(_OF_POLICIES) else self._product.metrics()
        return _sum(samples, metric, labels) - _sum(self._before, metric, labels)

    def _published(self) -> list[tuple[str, dict[str, str], float]]:
        """Return every sample once the worker has published what it counted for the requests until now."""
        if self._as_of != Client.sent:
            # The round whose news comes first may have begun before; the next one has not.
            self._wait_for_news()
            self._wait_for_news()
            self._as_of, self._after = Client.sent, self._product.metrics()
        return self._after

    def _wait_for_news(self) -> None:
        """Wait for calls to the database, of which a worker makes some every second for itself."""
        calls, asks = "photo_api_circuit_breaker_calls_total", {"name": "database"}
        before = self._product.metric(calls, **asks)
        until(lambda: self._product.metric(calls, **asks) > before, "the worker to publish its figures")

    def calls(self, breaker: str) -> dict[str, int]:
        """Return what became of the calls that a breaker has seen since, without those that nothing became of."""
        metric = "photo_api_circuit_breaker_calls_total"
        kinds = ("successful", "failed", "ignored", "late", "not_permitted")
        counted = {kind: int(self.moved(metric, name=breaker, kind=kind)) for kind in kinds}
        return {kind: count for kind, count in counted.items() if count}

    def retries(self, pipeline: str, outcome: str) -> int:
        """Return how often retries of a pipeline have come to this."""
        return int(self.moved("photo_api_retries_total", name=pipeline, outcome=outcome))


@dataclass(frozen=True)
class World:
    """A running product with an operator, and its way to the store.

    Attributes:
        product: The product.
        proxy: Between it and its store.
        operator: Somebody who may set breakers.
    """

    product: Product
    proxy: FaultProxy
    operator: Client

    @property
    def stack(self) -> Stack:
        return self.product.stack

    def set_breaker(self, name: str, state: str) -> None:
        """Set a breaker by the operators' route, and let the worker hear of it."""
        self._set(name, state)
        pass_by(_NEWS_SECONDS)

    def _set(self, name: str, state: str) -> None:
        """Set it as soon as the database answers for the operator."""
        until(partial(self._has_set, name, state), f"{name} to be {state}")

    def _has_set(self, name: str, state: str) -> bool:
        answer = requests.put(
            f"{self.product.management_url}/api/v1/admin/breakers/{name}/state",
            json={"state": state, "reason": "a test"},
            headers=self._as_operator,
            timeout=10,
        )
        return answer.status_code == 200

    @property
    def _as_operator(self) -> dict[str, str]:
        return {"Authorization": str(self.operator.http.headers["Authorization"])}

    def start_anew(self, breakers: tuple[str, ...] = BREAKERS) -> None:
        """Heal the store and close breakers with fresh figures."""
        self.proxy.heal()
        for name in reversed(breakers):  # an open one of the database keeps operators out, too
            self._set(name, "disabled")
            self._set(name, "closed")
        pass_by(_NEWS_SECONDS)

    def state(self, breaker: str) -> str:
        """Return a breaker's state, as its host knows it by now."""
        pass_by(_NEWS_SECONDS)
        return str(self._breaker(breaker)["state"])

    def wait_until_over(self, breaker: str) -> None:
        """Wait until an open breaker would let a call in."""
        until(lambda: self._wait_left(breaker) == 0, f"the wait of {breaker} to be over")
        pass_by(_ROUNDED_SECONDS)

    def _wait_left(self, breaker: str) -> float:
        """Return for how long a breaker still refuses every call."""
        return float(self._breaker(breaker)["ends_in_seconds"])

    def _breaker(self, name: str) -> dict[str, Any]:
        """Return how a breaker stands; the details of health need neither a token nor the database."""
        answer = requests.get(f"{self.product.management_url}/health/detailed", timeout=10)
        found: dict[str, Any] = answer.json()["breakers"][name]
        return found

    def in_use(self, pipeline: str) -> int:
        """Return how many places of a bulkhead are taken."""
        return int(self.product.metric("photo_api_bulkhead_in_use", name=pipeline))

    def upstream(self, method: str) -> int:
        """Return how often the store was asked for photos, or given some; health asks in other ways."""
        return sum(seen.method == method and "/originals/" in seen.path for seen in list(self.proxy.requests))

    def health(self) -> tuple[int, str]:
        """Return the status and the word of readiness."""
        answer = requests.get(f"{self.product.url}/health/readiness", timeout=10)
        return answer.status_code, str(answer.json()["status"])

    def wait_for_health(self, status: int, word: str) -> None:
        """Wait for the next sample of health to say so."""
        until(lambda: self.health() == (status, word), f"readiness of {status} {word}")


def pass_by(seconds: float) -> None:
    """Let some time pass in which news travels between processes: there is nothing to look at meanwhile."""
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() > ends, "time to pass")


def _sum(samples: list[tuple[str, dict[str, str], float]], metric: str, labels: Mapping[str, str]) -> float:
    return sum(value for name, has, value in samples if name == metric and labels.items() <= has.items())


@contextmanager
def running_world(
    stack: Stack, folder: Path, pipelines: str, settings: Mapping[str, str] | None = None
) -> Iterator[World]:
    """Start a product with these pipelines; end it afterwards."""
    path = folder / "pipelines.toml"
    path.write_text(pipelines, encoding="utf-8")
    assert stack.proxy is not None
    product = Product(
        stack, folder, workers=1, settings={"PHOTO_API_STABILITY__PIPELINES_FILE": str(path), **(settings or {})}
    )
    with closing(product):
        operator = product.new_user()
        with product.stack.database() as connection:
            connection.execute(update(User).where(User.email == operator.email).values(is_admin=True))
        operator.log_in()
        yield World(product, stack.proxy, operator)


@contextmanager
def left_as_found(world: World) -> Iterator[None]:
    """Assert I6, I7 and I9 of what happens inside, and leave closed breakers behind."""
    world.start_anew()
    baseline = Baseline(world.product)
    yield
    world.start_anew()
    # Connections that several clients at once have made stay with the pools, which bound them.
    baseline.require(slack=64)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return what a call returns, and how many seconds it took."""
    began = time.monotonic()
    result = call()
    return result, time.monotonic() - began


def at_once(client: Client, count: int, call: Callable[[Client], T]) -> list[T]:
    """Return what so many clients of one account get when they ask at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, [client.twin() for _ in range(count)]))


def end_connections(stack: Stack) -> int:
    """End every connection of the product, and return how many there were."""
    ending = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
    with stack.database() as connection:
        ours = text(f"{ending} AND application_name = 'photo-api'")
        return int(connection.execute(ours).scalar_one())


def retry_after(answer: requests.Response) -> int:
    """Return the seconds of ``Retry-After``; 0 without one."""
    return int(answer.headers.get("Retry-After", "0"))


def photo_of(answer: requests.Response) -> dict[str, Any]:
    """Return the photo of an upload that must have been taken in."""
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document
