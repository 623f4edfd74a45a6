"""The drain drill: instances behind a load balancer are stopped and reloaded under load, and no request may be lost.

::

    python -m tests.drills.drain_drill            20 stops by each way, streams of 20 s: half an hour
    python -m tests.drills.drain_drill --short    2 stops by each way, streams of 2 s, as in the test suite

    reads, uploads, slow uploads, slow downloads ─▶ haproxy, retries off ─▶ two instances of 2 workers each

It exits with 0 when all was as it should be, else with 1.
"""

from __future__ import annotations

import argparse
import sys

from tests.drills.breaker_drill import MISSING, conduct
from tests.drills.drain import FULL, SHORT, DrainDrill
from tests.drills.group import running_group
from tests.drills.journal import Journal


def main(arguments: list[str] | None = None) -> int:
    """Run the drill and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.drain_drill", description=__doc__)
    parser.add_argument("--short", action="store_true", help="2 stops by each way, as in the test suite")
    plan = SHORT if parser.parse_args(arguments).short else FULL
    journal = Journal()
    journal.say("Starting two instances and haproxy.")
    try:
        with running_group(plan.probing, plan.settings(), plan.linger_seconds) as group:
            return conduct(DrainDrill(group, plan, journal).run, journal)
    except MISSING as reason:
        journal.say(f"The drill cannot run: {reason.msg}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
