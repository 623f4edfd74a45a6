"""Who hears of calls to other services, and remembers."""

from __future__ import annotations

from typing import Literal


class RememberingObserver:
    """Keeps what it hears.

    Attributes:
        calls: Service, operation, outcome and kind of each call.
        seconds: How long each took.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, str]] = []
        self.seconds: list[float] = []

    def external_call(
        self, service: str, operation: str, *, outcome: Literal["success", "failure"], seconds: float, kind: str = ""
    ) -> None:
        """Remember."""
        self.calls.append((service, operation, outcome, kind))
        self.seconds.append(seconds)
