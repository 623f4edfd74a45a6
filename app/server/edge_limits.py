"""What nginx limits per client address: four classes of requests, in two profiles.

nginx counts by a leaky bucket: every request adds one to the bucket of its address, the bucket leaks at the rate,
and a request that would raise it above the burst is refused. Up to ``undelayed`` above the rate a request is passed
on at once; what is above that waits until the bucket has leaked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

_WINDOW_SECONDS: Final = {"s": 1, "m": 60}


@dataclass(frozen=True, slots=True)
class Zone:
    """One class of requests and its limit.

    Attributes:
        name: ``api``, ``image``, ``upload`` or ``auth``.
        rate: Requests per second or minute.
        per: ``s`` or ``m``.
        burst: How many more may come at once.
        undelayed: How many of those are passed on at once, 0 to ``burst``.
    """

    name: str
    rate: int
    per: Literal["s", "m"]
    burst: int
    undelayed: int

    @property
    def window_seconds(self) -> int:
        """The time that ``rate`` is for."""
        return _WINDOW_SECONDS[self.per]

    @property
    def retry_after_seconds(self) -> int:
        """When a refused client has room for one request again, rounded up."""
        return math.ceil(self.window_seconds / self.rate)

    @property
    def pace(self) -> str:
        """What stands in ``limit_req`` after the burst."""
        if self.undelayed >= self.burst:
            return " nodelay"
        return f" delay={self.undelayed}" if self.undelayed else ""


PROFILES: Final = {
    # For pages of many thumbnails: a hundred of them load at once.
    "gallery": (
        Zone("api", 20, "s", burst=40, undelayed=20),
        Zone("image", 100, "s", burst=200, undelayed=200),
        Zone("upload", 2, "s", burst=10, undelayed=5),
        Zone("auth", 5, "m", burst=4, undelayed=4),
    ),
    # For the open internet: what one person does by hand.
    "strict": (
        Zone("api", 60, "m", burst=20, undelayed=20),
        Zone("image", 120, "m", burst=60, undelayed=60),
        Zone("upload", 30, "m", burst=5, undelayed=5),
        Zone("auth", 5, "m", burst=4, undelayed=4),
    ),
}
"""The zones of each ``edge.profile``."""

CLASSES: Final = (
    ("upload", "POST", "/api/v1/photos"),
    ("auth", "POST", "/api/v1/auth/tokens"),
    ("auth", "POST", "/api/v1/users"),
    ("image", "(?:GET|HEAD)", "/api/v1/photos/[^/]+/original"),
    ("image", "(?:GET|HEAD)", "/api/v1/photos/[^/]+/renditions/[^/]+"),
    ("image", "(?:GET|HEAD)", "/o/.+"),
)
"""Which requests belong to which zone: its name, method and path as regular expressions. All others: ``api``."""
