"""Schemathesis asks the running server for all that the document promises, and for what it forbids.

It finds nothing: no status that is not documented, no answer that does not fit its schema, no wrong request
accepted, no right one refused, no 500. ``schemathesis.toml`` holds what it is told, with reasons.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.test_openapi import OPERATIONS
from tests.servers.product import ROOT, Product, until
from tests.servers.stacks import embedded_stack

PHASES = ("examples", "coverage", "fuzzing", "stateful")
ROUTES = {(operation.method, operation.path) for operation in OPERATIONS}
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SETTINGS = {
    "PHOTO_API_AUTH__PRINCIPAL_CACHE_SECONDS": "0",  # a session that it ends is ended for its next request too
    "PHOTO_API_SERVER__TRUSTED_PROXIES": "127.0.0.0/8",  # so that each request may come from an address of its own
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Product]:
    """The embedded default."""
    running = Product(embedded_stack(tmp_path), tmp_path, settings=SETTINGS)
    yield running
    running.close()


def ask(server: Product, *options: str, seconds: int) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run schemathesis with every phase; return how it ended and its report."""
    report = server.folder / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"),
            *(f"{server.url}/openapi.json", "--report", "json", "--report-json-path", str(report), *options),
        ],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done, json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def judge(server: Product, done: subprocess.CompletedProcess[str], report: dict[str, Any]) -> None:
    """Assert that nothing was found, that all was asked in every way, and that no worker erred or kept anything."""
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert report["operations"]["tested"] == report["operations"]["total"] == len(ROUTES)
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(PHASES, "success")
    assert (report["failures"], report["errors"]) == ([], [])
    assert [line for line in server.log_lines() if line["severity_text"] in {"ERROR", "CRITICAL"}] == []
    until(lambda: server.spooled_files() == [], "the bodies of the last requests to be forgotten")


def successes(server: Product) -> set[tuple[str, str]]:
    """Return the method and route of every request that succeeded."""
    return {
        (labels["method"], labels["route"])
        for name, labels, value in server.metrics()
        if name == "photo_api_http_requests_total" and value and labels["code"].startswith("2")
        if (labels["method"], labels["route"]) in ROUTES
    }


def test_schemathesis_finds_nothing(server: Product) -> None:
    done, report = ask(server, "--max-examples", "20", "--seed", "20260517", seconds=540)

    judge(server, done, report)
    until(lambda: server.metric("photo_api_in_flight_requests") == 0, "the last request to be counted")
    assert successes(server) == ROUTES, "a search that only ever fails finds little"


@pytest.mark.extended
@pytest.mark.parametrize("seed", ["1", "2", "3", "4"])
def test_schemathesis_finds_nothing_in_a_long_search(server: Product, seed: str) -> None:
    done, report = ask(server, "--max-examples", "200", "--seed", seed, seconds=1800)

    judge(server, done, report)
