"""Lists of photos: filters, order, and keyset pages that stay stable under inserts and fast at any depth.

A page goes on after the sort value and id of the last item shown, never after a count of rows; an index on
(owner, sort value, id) finds that place directly.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, Uuid, literal, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.db.base import UtcDateTime
from app.db.engine import Database
from app.errors import MalformedRequestError
from app.http.cursors import CursorSigner
from app.photos.documents import COLUMNS
from app.photos.models import READY, Photo, PhotoTag
from app.photos.schemas import PhotoQuery

_SORT_COLUMNS: dict[str, InstrumentedAttribute[dt.datetime]] = {
    "created_at": Photo.created_at,
    "taken_at": Photo.timeline_at,
}
_SEARCHED = (Photo.title, Photo.description, Photo.original_filename, Photo.camera)


class Page(NamedTuple):
    """The rows of a page, and the cursor of the next one if there is one."""

    rows: Sequence[Row[Any]]
    next_cursor: str | None


class PhotoLists:
    """Reads pages of an owner's photos. Thread-safe.

    Args:
        database: Where the photos are.
        cursors: Signs the cursors.
    """

    def __init__(self, database: Database, cursors: CursorSigner) -> None:
        self._database = database
        self._cursors = cursors

    def page(self, owner_id: UUID, query: PhotoQuery) -> Page:
        """Return one page.

        Raises:
            MalformedRequestError: The cursor belongs to another list.
            DatabaseUnavailableError: It cannot be read now.
        """
        return self._database.run_read(lambda connection: _read_page(connection, owner_id, query, self._cursors))


def _read_page(connection: Connection, owner_id: UUID, query: PhotoQuery, cursors: CursorSigner) -> Page:
    column = _SORT_COLUMNS[query.sort.removeprefix("-")]
    is_descending = query.sort.startswith("-")
    question = _question(owner_id, query)
    statement = _filtered(owner_id, query)
    if query.cursor is not None:
        place = _place(cursors.read(question, query.cursor))
        here = tuple_(column, Photo.id)
        statement = statement.where(here < place if is_descending else here > place)
    order = (column.desc(), Photo.id.desc()) if is_descending else (column, Photo.id)
    rows = connection.execute(statement.order_by(*order).limit(query.limit + 1)).all()
    if len(rows) <= query.limit:
        return Page(rows, None)
    last: Row[Any] = rows[query.limit - 1]
    sort_value = last._mapping[column.key]  # noqa: SLF001  # SQLAlchemy's public name for a row as a mapping
    return Page(rows[: query.limit], cursors.sign(question, [sort_value.isoformat(), str(last.id)]))


def _question(owner_id: UUID, query: PhotoQuery) -> str:
    filters = query.model_dump_json(exclude={"cursor", "limit"})
    return f"photos {owner_id.hex} {filters}"


def _place(position: list[str]) -> ColumnElement[Any]:
    try:
        instant, photo_id = dt.datetime.fromisoformat(position[0]), UUID(position[1])
    except (ValueError, IndexError):
        raise MalformedRequestError("The cursor is not valid for this list. Start again without it.") from None
    return tuple_(literal(instant, UtcDateTime), literal(photo_id, Uuid))


def _filtered(owner_id: UUID, query: PhotoQuery) -> Select[Any]:
    trash = Photo.trashed_at.is_not(None) if query.trashed else Photo.trashed_at.is_(None)
    # The state is written out so that the partial indexes are seen to fit.
    statement = select(*COLUMNS, Photo.timeline_at).where(
        Photo.owner_id == owner_id, Photo.state == literal(READY, literal_execute=True), trash
    )
    if query.tag is not None:
        tagged = select(PhotoTag.photo_id).where(PhotoTag.owner_id == owner_id, PhotoTag.tag == query.tag)
        statement = statement.where(Photo.id.in_(tagged))
    if query.q is not None:
        statement = statement.where(or_(*(column.icontains(query.q, autoescape=True) for column in _SEARCHED)))
    if query.taken_after is not None:
        # A photo's timeline is its taken_at where there is one, and is indexed.
        statement = statement.where(Photo.timeline_at >= query.taken_after, Photo.taken_at.is_not(None))
    if query.taken_before is not None:
        statement = statement.where(Photo.timeline_at < query.taken_before, Photo.taken_at.is_not(None))
    if query.content_type is not None:
        statement = statement.where(Photo.content_type == query.content_type)
    if query.favorite is not None:
        statement = statement.where(Photo.favorite.is_(query.favorite))
    return statement
