"""The rows ``photo.render`` of the outbox: photos that are to be decoded, each taken by one worker at a time.

A row that is taken is due again when its lease has ended, so one whose worker dies is not lost. The number of
attempts and the end of the lease are its fence: what a worker writes whose lease has passed to another finds no row.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, delete, select, update

from app.db.base import utc_now
from app.db.engine import Database
from app.db.outbox import PHOTO_RENDER, OutboxRow

_LOOKED_AT: Final = 8


@dataclass(frozen=True, slots=True)
class RenderTask:
    """A photo that is this worker's to decode.

    Attributes:
        row_id: Of the outbox.
        photo_id: Which photo.
        outputs: Presets and formats by their names; None for all that is made after an upload, and the description.
        attempts: How often it was taken, this time included.
        until: When its lease ends, UTC; together with the attempts it is the fence.
    """

    row_id: int
    photo_id: UUID
    outputs: tuple[tuple[str, str], ...] | None
    attempts: int
    until: dt.datetime


class RenderQueue:
    """The rows. Thread-safe.

    Args:
        database: The outbox.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, lease_seconds: float) -> RenderTask | None:
        """Take the photo that has waited longest; None when none is due.

        Args:
            lease_seconds: For how long nobody else takes it.

        Raises:
            DatabaseUnavailableError: It cannot be known, or nobody knows whether one was taken; it is due again then.
        """
        due = self._database.run_read(_due)
        until = utc_now() + dt.timedelta(seconds=lease_seconds)
        for row in due:
            taken = (
                update(OutboxRow)
                .where(
                    OutboxRow.id == row.id,
                    OutboxRow.attempts == row.attempts,
                    OutboxRow.available_at == row.available_at,
                )
                .values(attempts=row.attempts + 1, available_at=until)
            )
            if self._changes(taken):
                return RenderTask(row.id, row.photo_id, _outputs_of(row.payload), row.attempts + 1, until)
        return None

    def done(self, task: RenderTask) -> None:
        """Drop a row, unless another worker has taken it meanwhile."""
        self._changes(delete(OutboxRow).where(*_still(task)))

    def postpone(self, task: RenderTask, seconds: float, *, counted: bool) -> None:
        """Let a row wait.

        Args:
            task: It.
            seconds: How long.
            counted: Whether the attempt counts against the photo: it does not when something else failed.
        """
        later = utc_now() + dt.timedelta(seconds=seconds)
        attempts = task.attempts if counted else task.attempts - 1
        self._changes(update(OutboxRow).where(*_still(task)).values(available_at=later, attempts=attempts))

    def _changes(self, change: Any) -> bool:
        return self._database.run_write(lambda connection: bool(connection.execute(change).rowcount))


def _due(connection: Connection) -> list[Row[Any]]:
    columns = (OutboxRow.id, OutboxRow.photo_id, OutboxRow.payload, OutboxRow.attempts, OutboxRow.available_at)
    due = (OutboxRow.kind == PHOTO_RENDER, OutboxRow.available_at <= utc_now())
    return list(connection.execute(select(*columns).where(*due).order_by(OutboxRow.available_at).limit(_LOOKED_AT)))


def _still(task: RenderTask) -> tuple[Any, ...]:
    return (
        OutboxRow.id == task.row_id,
        OutboxRow.attempts == task.attempts,
        OutboxRow.available_at == task.until,
    )


def _outputs_of(payload: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    wanted = payload.get("outputs")
    return None if wanted is None else tuple((str(preset), str(name)) for preset, name in wanted)
