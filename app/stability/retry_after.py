"""``Retry-After`` as servers send it: in seconds, or as a date (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,9}")


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return how many seconds a header asks to wait, 0 or more; None when it is missing or not understood.

    Args:
        value: The header's value.
        now: The wall time that a date is compared with, with a time zone; the system's by default.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if instant.tzinfo is None:  # "-0000" means that the zone is not known; HTTP knows only GMT
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - (now or datetime.now(UTC))).total_seconds())
