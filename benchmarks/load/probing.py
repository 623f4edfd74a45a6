"""Probes as a load balancer sends them, from a process of their own, so that no other traffic delays them.

``python -m benchmarks.load.probing HOST PORT SECONDS TIMEOUT`` says on standard output when it begins, and at the end
what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.load.generator import Generator
from benchmarks.load.records import Record
from benchmarks.load.traffic import Target, Traffic, steady

PATHS: Final = ("/health", "/health/readiness")
EVERY_SECONDS: Final = 0.05
_BEGUN: Final = "begun\n"
_ENDING_SECONDS: Final = 30.0


class Probes:
    """Probes that are under way in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def records(self) -> list[Record]:
        """Wait for the end; return a record for each path."""
        output, _ = self._process.communicate(timeout=_ENDING_SECONDS)
        return [_record(facts) for facts in json.loads(output)]


@contextmanager
def probing(target: Target, seconds: float, timeout_seconds: float) -> Iterator[Probes]:
    """Ask for the health every 50 ms, for so long; the first probe is on its way when the block begins.

    Args:
        target: Whom.
        seconds: From now.
        timeout_seconds: When a probe is given up.
    """
    numbers = map(str, (target.port, seconds, timeout_seconds))
    command = [sys.executable, "-m", __spec__.name, target.host, *numbers]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        begun = process.stdout.readline()
        assert begun == _BEGUN, "the probes did not begin"
        yield Probes(process)
    finally:
        process.kill()
        process.communicate()


def main(host: str, port: str, seconds: str, timeout_seconds: str) -> None:
    """Send the probes and print what came of them."""
    due = steady(1 / EVERY_SECONDS, float(seconds))
    traffics = [
        Traffic(path, path, due, timeout_seconds=float(timeout_seconds), keeps_connections=False) for path in PATHS
    ]
    generator = Generator(Target(host, int(port)), traffics)
    sys.stdout.write(_BEGUN)
    sys.stdout.flush()
    json.dump([_facts(record) for record in generator.run()], sys.stdout)


def _facts(record: Record) -> dict[str, Any]:
    return {
        "name": record.name,
        "began": record.began,
        "due": list(record.due),
        "seconds": list(record.seconds),
        "outcomes": list(record.outcomes),
        "statuses": list(record.statuses),
        "late": list(record.late),
    }


def _record(facts: dict[str, Any]) -> Record:
    return Record(
        facts["name"],
        facts["began"],
        array("d", facts["due"]),
        array("d", facts["seconds"]),
        array("b", facts["outcomes"]),
        array("H", facts["statuses"]),
        array("d", facts["late"]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
