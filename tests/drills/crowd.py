"""The clients of a drain drill: reads, uploads, slow uploads and slow downloads, all through the balancer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from benchmarks.load.generator import Generator
from benchmarks.load.records import Loss, Outcome, Record
from benchmarks.load.traffic import MOST_SECONDS, Target, Traffic, steady
from tests.servers.client import Client, new_photo

READS_KEPT, READS_FRESH, UPLOADS = 30.0, 20.0, 8.0
"""Requests a second."""
STREAM_BYTES = 6_000_000
"""More than all buffers on the way hold, so that the server is at it for most of a slow client's time."""
SLOW_UPLOAD_BYTES = 200_000
_PATIENCE_SECONDS = 15.0
_STREAMS_AT_ONCE = 4


def traffic_of(client: Client, photo: dict[str, Any], stream_seconds: float, seconds: float) -> list[Traffic]:
    """Return what the clients send for so long.

    Args:
        client: Logged in.
        photo: One of ``STREAM_BYTES`` that is there.
        stream_seconds: How long a slow client takes.
        seconds: For how long at most.
    """
    identity = {"Authorization": f"Bearer {client.tokens['access_token']}"}
    upload = {**identity, "Content-Type": "image/jpeg"}
    path, one, every = "/api/v1/photos", photo["links"]["self"], stream_seconds / _STREAMS_AT_ONCE
    patience = stream_seconds + _PATIENCE_SECONDS
    return [
        Traffic("reads, kept", one, steady(READS_KEPT, seconds), headers=identity, timeout_seconds=patience),
        Traffic(
            "reads, fresh",
            one,
            steady(READS_FRESH, seconds),
            headers=identity,
            keeps_connections=False,
            timeout_seconds=patience,
        ),
        Traffic(
            "uploads",
            path,
            steady(UPLOADS, seconds),
            method="POST",
            headers=upload,
            body=new_photo(),
            is_unique=True,
            keeps_connections=False,
            timeout_seconds=patience,
        ),
        Traffic(
            "slow uploads",
            path,
            steady(1 / every, seconds),
            method="POST",
            headers=upload,
            body=new_photo(SLOW_UPLOAD_BYTES),
            is_unique=True,
            bytes_per_second=round(SLOW_UPLOAD_BYTES / stream_seconds),
            timeout_seconds=patience,
        ),
        Traffic(
            "streams",
            photo["links"]["original"],
            steady(1 / every, seconds),
            headers=identity,
            bytes_per_second=round(STREAM_BYTES / stream_seconds),
            timeout_seconds=patience,
        ),
    ]


class Clients:
    """Sends traffic from a thread until the block ends; then every request has come to its end.

    Args:
        target: Where.
        traffic: What.
    """

    def __init__(self, target: Target, traffic: Sequence[Traffic]) -> None:
        self._generator = Generator(target, traffic)
        self._pool = ThreadPoolExecutor(1)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._running = self._pool.submit(self._generator.run)
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.stop()
        self._pool.shutdown()
        self._running.result()
        assert time.monotonic() - self._began < MOST_SECONDS, "the clients had stopped before the drill did"

    @property
    def records(self) -> list[Record]:
        """What came of each class; still growing within the block."""
        return self._generator.records

    def under_way(self, name: str) -> int:
        """Return how many requests of a class have been sent and not ended."""
        record = self._record(name)
        return len(record.late) - len(record.outcomes)

    def good(self, name: str) -> int:
        """Return how many requests of a class were answered well."""
        return self._record(name).outcomes.count(Outcome.GOOD)

    def lost(self) -> dict[str, int]:
        """Return how many requests were neither answered well nor told to come again, of each class that has some."""
        counts = {
            record.name: len(record.outcomes) - sum(map(record.outcomes.count, (Outcome.GOOD, Outcome.REFUSED)))
            for record in self.records
        }
        return {name: count for name, count in counts.items() if count}

    def refused(self) -> int:
        """Return how many were told to come again."""
        return sum(record.outcomes.count(Outcome.REFUSED) for record in self.records)

    def ended(self) -> int:
        """Return how many requests have ended, in whatever way."""
        return sum(len(record.outcomes) for record in self.records)

    def losses(self) -> list[tuple[str, Loss]]:
        """Return the circumstances, with the class."""
        return [(record.name, loss) for record in self.records for loss in record.losses]

    def _record(self, name: str) -> Record:
        return next(record for record in self.records if record.name == name)
