"""A drill's eyes: how a breaker stands in every worker, what the store's side was asked, what was logged of it."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import Any

import requests

from tests.fakes.fault_proxy import FaultProxy
from tests.servers.client import Client
from tests.servers.product import Product, until

ADOPTED = "adopted"
"""The cause of a change that another worker has decided."""

_ORIGINALS = "/originals/"
_TRIES = 200


class BreakerWatch:
    """Asks the operators' routes, over one connection per worker, kept alive: each answers for itself.

    Asking makes a breaker look at the page of the host, as any call does.

    Args:
        product: The product.
        admin: An administrator of it.
    """

    def __init__(self, product: Product, admin: Client) -> None:
        self._product = product
        self._admin = admin
        self._sessions: dict[int, requests.Session] = {}
        self._connect()

    def views(self, breaker: str) -> dict[int, dict[str, Any]]:
        """Return how a breaker stands in every worker, by process id."""
        return {pid: self._ask(pid, breaker) for pid in self._sessions}

    def states(self, breaker: str) -> set[str]:
        """Return the states that it is in, one element when all workers agree."""
        return {view["state"] for view in self.views(breaker).values()}

    def count(self, breaker: str, kind: str) -> int:
        """Return how many calls became ``failed``, ``late``, ``not_permitted``, …, in all workers."""
        return sum(view["figures"]["calls"][kind] for view in self.views(breaker).values())

    def wait_left_seconds(self, breaker: str) -> float:
        """Return how long its state lasts: 0 for an open one that may try a call, endless where no time ends it."""
        said = [view["ends_in_seconds"] for view in self.views(breaker).values()]
        return max(math.inf if seconds is None else float(seconds) for seconds in said)

    def wait_for(self, breaker: str, state: str, seconds: float) -> None:
        """Wait until all workers say a state."""
        until(lambda: self.states(breaker) == {state}, f"{breaker} to be {state} in all workers", seconds)

    def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            session.close()

    def _connect(self) -> None:
        for _ in range(_TRIES):
            session = requests.Session()
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {self._admin.tokens['access_token']}"
            pid = self._get(session, "storage_read")["worker_pid"]
            if pid in self._sessions:
                session.close()
            self._sessions.setdefault(pid, session)
            if len(self._sessions) == self._product.workers:
                return
        message = "a worker answers no operator"
        raise AssertionError(message)

    def _ask(self, pid: int, breaker: str) -> dict[str, Any]:
        view = self._get(self._sessions[pid], breaker)
        assert view["worker_pid"] == pid, "a connection has gone to another worker"
        return view

    def _get(self, session: requests.Session, breaker: str) -> dict[str, Any]:
        url = f"{self._product.management_url}/api/v1/admin/breakers/{breaker}"
        answer = session.get(url, timeout=30)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view


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
    found = []
    for line in map(json.loads, whole.splitlines()):
        if line["message"] == "state transitioned" and line.get("policy") == breaker:
            at = dt.datetime.fromisoformat(line["timestamp"]).timestamp()
            found.append(Transition(at, line["pid"], line["target"], line["cause"], line.get("rate")))
    return found


def upstream_calls(proxy: FaultProxy, method: str) -> int:
    """Return how often the store was asked for photos, or given some; health and maintenance ask in other ways."""
    return sum(seen.method == method and _ORIGINALS in seen.path for seen in list(proxy.requests))
