"""A drill's eyes: how a breaker stands in every worker, what the store's side was asked, what was logged of it."""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from app.ops.metric_files import FileReader, SeriesBook, list_files
from tests.fakes.fault_proxy import FaultProxy
from tests.servers.client import Client
from tests.servers.product import Product, until

ADOPTED = "adopted"
"""The cause of a change that another worker has decided."""

_ORIGINALS = "/originals/"
_STATE = "photo_api_circuit_breaker_state"
_CALLS = "photo_api_circuit_breaker_calls"
_DATABASE = "database"
_COUNTED_SECONDS = 15.0


@dataclass(frozen=True)
class WorkerView:
    """How a breaker stands in one worker, as it has published it.

    Attributes:
        state: The state.
        calls: Calls by what became of them.
    """

    state: str
    calls: Mapping[str, int]


class BreakerWatch:
    """Reads what each worker publishes of its breakers once a second, and asks the operators' routes for times.

    Args:
        product: The product.
        admin: An administrator of it.
    """

    def __init__(self, product: Product, admin: Client) -> None:
        self._product = product
        self._admin = admin
        self._session = requests.Session()
        self._session.trust_env = False

    def views(self, breaker: str) -> dict[int, WorkerView]:
        """Return how a breaker stands in every worker, by process id, up to a second ago."""
        (folder,) = (self._product.folder / "var" / "run" / "metrics").glob("server-*")
        alive = self._product.worker_pids()
        names = [name for name in list_files(folder) if name.owner.pid in alive and name.owner.lives()]
        return {name.owner.pid: _view(folder / name.text, breaker) for name in names}

    def states(self, breaker: str) -> set[str]:
        """Return the states that it is in, one element when all workers agree."""
        return {view.state for view in self.views(breaker).values()}

    def calls(self, breaker: str, kind: str) -> dict[int, int]:
        """Return how many calls became ``failed``, ``late``, ``not_permitted``, …, by worker, once published."""
        # What a worker publishes first may be of a round that had begun before; the second one is not.
        self._wait_for_news()
        self._wait_for_news()
        return self._published(breaker, kind)

    def wait_for_more(self, breaker: str, kind: str, before: Mapping[int, int], count: int) -> list[int]:
        """Wait for so many more calls in all workers together than before; return those of each."""
        ends = time.monotonic() + _COUNTED_SECONDS
        while sum(more := self._more(breaker, kind, before)) < count and time.monotonic() < ends:
            time.sleep(0.02)  # between two looks, not instead of one
        return more

    def _more(self, breaker: str, kind: str, before: Mapping[int, int]) -> list[int]:
        now = self._published(breaker, kind)
        return [now[pid] - many for pid, many in before.items()]

    def _published(self, breaker: str, kind: str) -> dict[int, int]:
        return {pid: view.calls.get(kind, 0) for pid, view in self.views(breaker).items()}

    def _wait_for_news(self) -> None:
        """Wait until every worker has published some calls of the database: it makes one every second for itself."""
        before = self._calls_of_database()

        def have_all_published() -> bool:
            now = self._calls_of_database()
            return all(now[pid] > many for pid, many in before.items())

        until(have_all_published, "every worker to publish")

    def _calls_of_database(self) -> dict[int, int]:
        return {pid: sum(view.calls.values()) for pid, view in self.views(_DATABASE).items()}

    def count(self, breaker: str, kind: str) -> int:
        """Return the sum of :meth:`calls` over all workers."""
        return sum(self.calls(breaker, kind).values())

    def state(self, breaker: str) -> str:
        """Return the state that was decided last; the workers follow."""
        return str(self._ask(breaker)["state"])

    def wait_left_seconds(self, breaker: str) -> float:
        """Return how long its state lasts: 0 for an open one that may try a call, endless where no time ends it."""
        seconds = self._ask(breaker)["ends_in_seconds"]
        return math.inf if seconds is None else float(seconds)

    def wait_for(self, breaker: str, state: str, seconds: float) -> None:
        """Wait until all workers say a state."""
        until(lambda: self.states(breaker) == {state}, f"{breaker} to be {state} in all workers", seconds)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _ask(self, breaker: str) -> dict[str, Any]:
        answer = self._session.get(
            f"{self._product.management_url}/api/v1/admin/breakers/{breaker}",
            headers={"Authorization": f"Bearer {self._admin.tokens['access_token']}"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view


def _view(path: Path, breaker: str) -> WorkerView:
    reader = FileReader(path, SeriesBook())
    reader.read()
    states = [
        dict(series.labels)["state"]
        for series, value, _ in reader.gauges()
        if series.family == _STATE and dict(series.labels)["name"] == breaker and value == 1
    ]
    calls = {
        dict(series.labels)["kind"]: int(value)
        for series, value in reader.counts()
        if series.family == _CALLS and dict(series.labels)["name"] == breaker
    }
    return WorkerView(states[0] if states else "unknown", calls)


def states_on_the_board(product: Product) -> dict[str, str]:
    """Return what ``python -m app breakers list --json`` says, by breaker."""
    rows = json.loads(product.command("breakers", "list", "--json").stdout)
    return {row["name"]: row["state"] for row in rows}


@dataclass(frozen=True)
class Transition:
    """A change of state as a worker logged it.

    Attributes:
        at: Seconds since 1970, to the millisecond.
        pid: The worker's process id.
        target: The state that began.
        cause: Why; ``ADOPTED`` when another worker has decided.
        rate: The rate that decided, where one did.
    """

    at: float
    pid: int
    target: str
    cause: str
    rate: float | None


def transitions(product: Product, breaker: str) -> list[Transition]:
    """Return what all workers have logged of a breaker, in the order in which it was written."""
    whole, _, _ = product.log_path.read_text(encoding="utf-8").rpartition("\n")  # the last line may be half there
    found, workers = [], product.worker_pids()
    for line in map(json.loads, whole.splitlines()):
        is_of_worker = line["pid"] in workers  # the management process follows, too, and serves nobody
        if is_of_worker and line["message"] == "state transitioned" and line.get("policy") == breaker:
            at = dt.datetime.fromisoformat(line["timestamp"]).timestamp()
            found.append(Transition(at, line["pid"], line["target"], line["cause"], line.get("rate")))
    return found


def upstream_calls(proxy: FaultProxy, method: str) -> int:
    """Return how often the store was asked for photos, or given some; health and maintenance ask in other ways."""
    return sum(seen.method == method and _ORIGINALS in seen.path for seen in list(proxy.requests))
