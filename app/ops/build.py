"""What runs here: the product's version and this instance's identity."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass
from typing import Final

VERSION: Final = "0.1.0"
"""The product's version; a test compares it with ``pyproject.toml``."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Who answers.

    Attributes:
        ip: Address of this host.
        node_name: Name of this host.
    """

    ip: str
    node_name: str

    def identity(self) -> dict[str, object]:
        """Return what ``/health`` says: which process of which host this is, and what runs in it."""
        return {"ip": self.ip, "node_name": self.node_name, "pid": os.getpid(), "version": VERSION}

    def facts(self) -> dict[str, object]:
        """Return what ``/health/detailed`` says besides."""
        return {**self.identity(), "python": platform.python_version()}


def find_instance(ip: str | None = None, node_name: str | None = None) -> Instance:
    """Return the identity, with what was not configured found on this host. Sends nothing.

    Args:
        ip: As configured.
        node_name: As configured.
    """
    return Instance(ip=ip or _own_address(), node_name=node_name or socket.gethostname())


def _own_address() -> str:
    # Connecting a datagram socket sends nothing: it only asks the routing table which address would be used.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
