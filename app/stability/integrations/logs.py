"""Events as structured log lines (standard :mod:`logging`): a fixed message and one ``extra`` field for each fact."""

from __future__ import annotations

import enum
import logging
import re
from dataclasses import fields
from typing import Any

from ..events import Event

_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")
_RENAMED = {"name": "policy"}  # a log record has a name of its own


class EventLog:
    """A listener that logs each event at the event's own level.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("stability")

    def __call__(self, event: Event) -> None:
        """Log one event: ``state transitioned``, with its fields but those that say nothing."""
        message = _WORD_START.sub(" ", type(event).__name__).lower()
        self._logger.log(event.level, message, extra=facts_of(event))


def facts_of(event: Event) -> dict[str, Any]:
    """Return an event's fields as plain values, without those that are None or empty."""
    found = {_RENAMED.get(part.name, part.name): _plain(getattr(event, part.name)) for part in fields(event)}
    return {name: value for name, value in found.items() if value is not None and value != ""}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return round(value, 4) if isinstance(value, float) else value
