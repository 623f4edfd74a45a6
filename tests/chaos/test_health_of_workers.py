"""What health says of workers that hang, and of a full pool on SQLite: with a product of the test's own."""

from __future__ import annotations

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import requests

from tests.chaos.guarded import timed
from tests.integration.judging import assert_problem
from tests.servers.base import stand_still
from tests.servers.product import Product, until
from tests.servers.stacks import embedded_stack

PHOTOS = "/api/v1/photos"
FRESH_SECONDS = 20.0
"""Loose: who waits for what hangs waits for ever."""


def management(product: Product, path: str) -> requests.Response:
    return requests.get(product.management_url + path, timeout=10)


def said_of_workers(product: Product) -> str:
    return str(management(product, "/health/detailed").json()["checks"]["workers"][0].get("output"))


def test_workers_that_hang_are_named_and_a_server_of_hanging_workers_is_dead(tmp_path: Path) -> None:
    with closing(Product(embedded_stack(tmp_path), tmp_path, workers=2)) as product:
        first, second = sorted(product.worker_pids())
        until(lambda: management(product, "/health").json()["status"] == "pass", "everything to pass")

        stand_still(first)
        try:
            until(lambda: str(first) in said_of_workers(product), "a worker to be missed")
            word = management(product, "/health").json()["status"]
            one_hangs = management(product, "/health/readiness").status_code
            stand_still(second)
            until(lambda: management(product, "/health/readiness").status_code == 503, "a dead server")
            details = management(product, "/health/detailed")
            alive = management(product, "/health/liveness")
        finally:
            for pid in (first, second):
                os.kill(pid, signal.SIGCONT)
        until(lambda: management(product, "/health").json()["status"] == "pass", "everything to pass again")

        assert (word, one_hangs, alive.status_code, details.status_code) == ("warn", 200, 503, 503)
        assert details.json()["checks"]["workers"][0]["status"] == "fail"
        assert {worker["pid"] for worker in details.json()["workers"]} == {first, second}
        assert product.worker_pids() == {first, second}


def test_row_25_on_sqlite_a_full_pool_refuses_soon_and_recovers_at_once(tmp_path: Path) -> None:
    settings = {
        "PHOTO_API_DATABASE__POOL_SIZE": "1",
        "PHOTO_API_DATABASE__MAX_OVERFLOW": "0",
        "PHOTO_API_DATABASE__POOL_TIMEOUT_SECONDS": "0.3",
    }
    with closing(Product(embedded_stack(tmp_path), tmp_path, workers=1, settings=settings)) as product:
        user = product.new_user()
        photo = user.upload()
        asked: list[tuple[requests.Response, float]] = []

        def is_refused() -> bool:
            asked.append(timed(lambda: user.twin().get(PHOTOS)))
            return asked[-1][0].status_code != 200

        with ThreadPoolExecutor(1) as threads:
            with sqlite3.connect(product.stack.database_url.removeprefix("sqlite:///"), timeout=30) as other:
                other.execute("BEGIN IMMEDIATE")
                held = threads.submit(user.twin().patch, f"{PHOTOS}/{photo['id']}", json={"title": "waits"})
                until(is_refused, "the pool to be full")
                shown = requests.get(f"{product.url}/health", timeout=10)
                other.rollback()
            refused, seconds = asked[-1]
            changed = held.result().status_code
        after = user.get(PHOTOS).status_code
        until(lambda: requests.get(f"{product.url}/health", timeout=10).json()["status"] == "pass", "all to pass")

        assert_problem(refused, 503)
        assert (seconds < FRESH_SECONDS, int(refused.headers["Retry-After"]) >= 1) == (True, True)
        assert (shown.status_code, shown.json()["checks"]["pool"][0]["status"]) == (200, "warn")
        assert (changed, after) == (200, 200)
        assert product.metric("photo_api_db_pool_waiting_requests") == 0
