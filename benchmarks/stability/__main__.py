"""``python -m benchmarks.stability``: what the library costs, beside its peers; about a minute.

It needs no servers. ``make bench`` runs it too, and ``make bench ARGS='--only stability'`` runs nothing else.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.report import say, write
from benchmarks.stability.findings import print_table
from benchmarks.stability.lines import measure
from benchmarks.stability.timing import QUICK, Effort


def main() -> int:
    """Measure, print the table and write it down; a missed goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    arguments = parser.parse_args()
    found = list(measure(QUICK if arguments.quick else Effort(), say))
    print_table(found)
    write(stability=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
