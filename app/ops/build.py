"""What runs here: the product's version and build, and this instance's identity.

Where it was built from, only whoever builds it knows: a file ``version.json`` beside ``wsgi.py``, as Dockerflow has
it (``{"source": …, "version": …, "commit": …, "build": …}``). Nothing is guessed when it is not there.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

_log = logging.getLogger(__name__)

VERSION: Final = "0.1.0"
"""The product's version; a test compares it with ``pyproject.toml``."""

BUILD_FILE: Final = Path(__file__).resolve().parents[2] / "version.json"
"""Written by whoever builds an image or a package."""

_BUILD_FIELDS = ("source", "commit", "build")
_BUILD_CHARACTERS_MAX = 500


def find_build(file: Path = BUILD_FILE) -> dict[str, str]:
    """Return what ``/__version__`` says: the version, and of source, commit and build what is known.

    Args:
        file: Where it stands. One that is broken, or about another version, is logged and not believed.
    """
    try:
        said = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return {"version": VERSION}
    except (OSError, orjson.JSONDecodeError) as error:
        _log.warning("version.json cannot be read: %s", type(error).__name__)
        return {"version": VERSION}
    if not isinstance(said, dict) or said.get("version") != VERSION:
        _log.warning("version.json is not about version %s, which is what runs", VERSION)
        return {"version": VERSION}
    known = {name: said.get(name) for name in _BUILD_FIELDS}
    return {
        "version": VERSION,
        **{
            name: value
            for name, value in known.items()
            if isinstance(value, str) and 0 < len(value) <= _BUILD_CHARACTERS_MAX
        },
    }


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
