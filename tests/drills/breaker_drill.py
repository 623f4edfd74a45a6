"""The breaker drill: an outage of the object store from beginning to end, on real servers, every step judged.

::

    python -m tests.drills.breaker_drill            with the times of production, about a minute (make breaker-drill)
    python -m tests.drills.breaker_drill --short    the same with fewer requests, as in the test suite

    clients ─▶ gunicorn, 2 workers ─▶ breakers ─▶ fault proxy, which counts ─▶ OpenStack Swift with s3api
                        └─▶ PostgreSQL

It exits with 0 when all was as it should be, else with 1. ``docs/stability/drill.md`` shows what it prints.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.drills.drill import BreakerDrill
from tests.drills.journal import Journal
from tests.drills.plan import FULL, SHORT, WORKERS, Plan, product_settings
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product
from tests.servers.stacks import cloud_stack
from tests.servers.swift import SwiftServer

_LOG_LINES = 20
MISSING = (pytest.skip.Exception, pytest.fail.Exception)
"""What a test server raises when it is not installed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the drill and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.breaker_drill", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer requests, as in the test suite")
    plan = SHORT if parser.parse_args(arguments).short else FULL
    journal = Journal()
    journal.say("Starting PostgreSQL, OpenStack Swift, a proxy before it, and the product.")
    try:
        with drilled_product(plan) as product:
            code = conduct(BreakerDrill(product, plan, journal).run, journal)
            if code:
                journal.say("The end of the product's log:")
                journal.say("\n".join(product.log_path.read_text(encoding="utf-8").splitlines()[-_LOG_LINES:]))
            return code
    except MISSING as reason:
        journal.say(f"The drill cannot run: {reason.msg}")
        return 1


def conduct(run: Callable[[], None], journal: Journal) -> int:
    """Run a drill; return 0 when it passed, 1 when something was not as it should be."""
    try:
        run()
    except AssertionError as failure:
        journal.say(f"\nFAILED: {failure}")
        return 1
    journal.say(f"\nPASSED: {journal.checks} checks")
    return 0


@contextmanager
def drilled_product(plan: Plan) -> Iterator[Product]:
    """Start everything in a temporary folder; end it afterwards."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="photo-api-drill-")))
        swift = SwiftServer(folder)
        closing.callback(swift.stop)
        postgres = PostgresServer()
        closing.callback(postgres.remove)
        stack = closing.enter_context(cloud_stack(swift, postgres))
        home = folder / "product"
        home.mkdir()
        product = Product(stack, home, workers=WORKERS, settings=product_settings(plan, home))
        closing.callback(product.close)
        yield product


if __name__ == "__main__":
    sys.exit(main())
