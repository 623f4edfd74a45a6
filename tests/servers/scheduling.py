"""Which test runs in which process of pytest-xdist: tests that share a server stay together.

One group per stack, so that each product is started once; the other tests are grouped by file. This takes the place
of xdist's own grouping by marks, which pytest 9.2 ignores.
"""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB

_STACK = re.compile(rf"\[(?:[^\]]*-)?({EMBEDDED}|{CLOUD}|{MARIADB})\b")


class ServerScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Groups of tests by the server they share, in the order in which they were collected."""

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by number of tests, which says nothing about time

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the group of a test: its stack, or else its file."""
    found = _STACK.search(nodeid)
    return found.group(1) if found else nodeid.partition("::")[0]
