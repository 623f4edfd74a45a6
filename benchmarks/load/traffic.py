"""What is sent, where, and when: classes of requests with the instants at which each is due.

The instants are made before the run and do not move when the server is slow: an open loop. Everything is bounded, and
an address outside 127.0.0.0/8 is refused.
"""

from __future__ import annotations

import ipaddress
import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MOST_REQUESTS: Final = 1_000_000
MOST_SECONDS: Final = 900.0
_LOOPBACK: Final = ipaddress.IPv4Network("127.0.0.0/8")
_MARK_CHARACTERS: Final = 24


class ForbiddenTargetError(ValueError):
    """Load goes to 127.0.0.0/8 only."""


class UnboundedLoadError(ValueError):
    """A run must be bounded in requests and in time."""


@dataclass(frozen=True)
class Target:
    """Where load goes.

    Args:
        host: An IPv4 address in 127.0.0.0/8.
        port: TCP.

    Raises:
        ForbiddenTargetError: Any other address, or a name.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        require_loopback(self.host)


@dataclass(frozen=True)
class Traffic:
    """One class of requests.

    Attributes:
        name: For the table.
        path: With the query.
        due: When each request is due: seconds from the start of the run, ascending.
        method: Of HTTP.
        headers: Besides ``Host`` and ``Content-Length``.
        body: None sends no body.
        is_unique: Whether each body ends with bytes of its own, so that no upload is a duplicate of another.
        timeout_seconds: How long after the due instant a client gives up and closes its connection.
        keeps_connections: Whether a connection is used again, as by browsers and proxies; else each request has one.
        bytes_per_second: How fast a client sends and reads; None: as fast as it can.
    """

    name: str
    path: str
    due: Sequence[float]
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_unique: bool = False
    timeout_seconds: float = 1.0
    keeps_connections: bool = True
    bytes_per_second: int | None = None

    def __post_init__(self) -> None:
        if len(self.due) > MOST_REQUESTS or (len(self.due) and self.due[-1] > MOST_SECONDS):
            raise UnboundedLoadError(
                f"{self.name}: at most {MOST_REQUESTS} requests in at most {MOST_SECONDS:g} s, "
                f"not {len(self.due)} in {self.due[-1]:g} s"
            )

    def message(self) -> bytes:
        """Return the request's bytes, but for the mark that makes a body unique."""
        headers = {"Host": "localhost", **self.headers}
        if not self.keeps_connections:
            headers["Connection"] = "close"
        body = self.body or b""
        if self.body is not None:
            headers["Content-Length"] = str(len(body) + (_MARK_CHARACTERS if self.is_unique else 0))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def mark(run: int, number: int) -> bytes:
    """Return the bytes that make one body of one run unlike all others."""
    return b"%012x%012x" % (run & 0xFFFF_FFFF_FFFF, number)


def require_loopback(host: str) -> None:
    """Refuse every address that is not in 127.0.0.0/8.

    Raises:
        ForbiddenTargetError: It is not, or it is a name.
    """
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError as error:
        raise ForbiddenTargetError(f"{host!r} is no IPv4 address; load goes to 127.0.0.0/8 only") from error
    if address not in _LOOPBACK:
        raise ForbiddenTargetError(f"{host} is not in 127.0.0.0/8, where alone load may go")


def steady(per_second: float, seconds: float, *, start: float = 0.0) -> array[float]:
    """Return instants at equal distances."""
    count = round(per_second * seconds)
    return array("d", (start + number / per_second for number in range(count)))


def scattered(per_second: float, seconds: float, *, start: float = 0.0, seed: int = 1) -> array[float]:
    """Return instants of a Poisson process: clients that know nothing of each other.

    Args:
        per_second: On average.
        seconds: How long.
        start: When the first may come.
        seed: The same seed gives the same instants.
    """
    chance, instants, now = random.Random(seed), array("d"), 0.0
    while (now := now + chance.expovariate(per_second)) < seconds:
        instants.append(start + now)
    return instants


def at_once(count: int, *, start: float = 0.0) -> array[float]:
    """Return one instant for all."""
    return array("d", [start] * count)
