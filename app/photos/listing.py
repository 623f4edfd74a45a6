"""Lists of photos: filters, order, and keyset pages that stay stable under inserts and fast at any depth.

A page goes on after the sort value and id of the last item shown, never after a count of rows; an index on
(owner, sort value, id) finds that place directly.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, bindparam, literal_column, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.db.base import UtcDateTime
from app.db.engine import Database
from app.db.prepared import PreparedSelect, Record
from app.errors import MalformedRequestError
from app.http.cursors import CursorSigner
from app.photos.documents import COLUMNS, PLACE_COLUMNS
from app.photos.models import READY, Photo, PhotoPlace, PhotoTag
from app.photos.schemas import PhotoQuery

_SORT_COLUMNS: dict[str, InstrumentedAttribute[dt.datetime]] = {
    "created_at": Photo.created_at,
    "taken_at": Photo.timeline_at,
}
_SEARCHED = (Photo.title, Photo.description, Photo.original_filename, Photo.camera)
_HAS_TAKEN_AT = Photo.taken_at.is_not(None)  # a photo's timeline is its taken_at where there is one, and is indexed
_FILTERS: dict[str, tuple[ColumnElement[bool], ...]] = {
    "tag": (
        Photo.id.in_(
            select(PhotoTag.photo_id).where(
                PhotoTag.owner_id == bindparam("owner_id"), PhotoTag.tag == bindparam("tag")
            )
        ),
    ),
    "q": (or_(*(column.icontains(bindparam("q"), escape="/") for column in _SEARCHED)),),
    "taken_after": (Photo.timeline_at >= bindparam("taken_after"), _HAS_TAKEN_AT),
    "taken_before": (Photo.timeline_at < bindparam("taken_before"), _HAS_TAKEN_AT),
    "content_type": (Photo.content_type == bindparam("content_type"),),
}
_SELECTS_REMEMBERED = 128


class Page(NamedTuple):
    """The rows of a page, and the cursor of the next one if there is one."""

    rows: Sequence[Record]
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

    def page(self, owner_id: UUID, query: PhotoQuery, *, with_place: bool = False) -> Page:
        """Return one page.

        Args:
            owner_id: Whose photos.
            query: Which of them, and from where on.
            with_place: Whether the caller may know where they were taken.

        Raises:
            MalformedRequestError: The cursor belongs to another list.
            DatabaseUnavailableError: It cannot be read now.
        """
        question = _question(owner_id, query)
        values: dict[str, Any] = {"owner_id": owner_id, "most": query.limit + 1, **_filter_values(query)}
        if query.cursor is not None:
            values["after"], values["after_id"] = _place(self._cursors.read(question, query.cursor))
        rows = self._database.ask(_select(_Form.of(query, with_place=with_place)), values)
        if len(rows) <= query.limit:
            return Page(rows, None)
        last = rows[query.limit - 1]
        sort_value: dt.datetime = getattr(last, _SORT_COLUMNS[query.sort.removeprefix("-")].key)
        return Page(rows[: query.limit], self._cursors.sign(question, [sort_value.isoformat(), str(last.id)]))


def _question(owner_id: UUID, query: PhotoQuery) -> str:
    filters = query.model_dump_json(exclude={"cursor", "limit"})
    return f"photos {owner_id.hex} {filters}"


def _place(position: list[str]) -> tuple[dt.datetime, UUID]:
    try:
        return dt.datetime.fromisoformat(position[0]), UUID(position[1])
    except (ValueError, IndexError):
        raise MalformedRequestError("The cursor is not valid for this list. Start again without it.") from None


def _filter_values(query: PhotoQuery) -> dict[str, Any]:
    """Return the values of the filters that are asked for, by the names that the statement has for them."""
    values = {name: getattr(query, name) for name in _FILTERS}
    if query.q is not None:
        values["q"] = re.sub(r"([/%_])", r"/\1", query.q)
    return {name: value for name, value in values.items() if value is not None}


class _Form(NamedTuple):
    """What decides how the statement of a list is written; its values come later."""

    sort: str
    trashed: bool
    favorite: bool | None
    goes_on: bool
    filters: tuple[str, ...]
    with_place: bool

    @classmethod
    def of(cls, query: PhotoQuery, *, with_place: bool) -> _Form:
        asked = tuple(name for name in _FILTERS if getattr(query, name) is not None)
        return cls(query.sort, query.trashed, query.favorite, query.cursor is not None, asked, with_place)


@lru_cache(_SELECTS_REMEMBERED)
def _select(form: _Form) -> PreparedSelect:
    trash = Photo.trashed_at.is_not(None) if form.trashed else Photo.trashed_at.is_(None)
    # The state is written out so that the partial indexes are seen to fit.
    statement = select(*COLUMNS, Photo.timeline_at).where(
        Photo.owner_id == bindparam("owner_id"), Photo.state == literal_column(f"'{READY}'"), trash
    )
    if form.with_place:
        statement = statement.add_columns(*PLACE_COLUMNS).outerjoin(PhotoPlace)
    for name in form.filters:
        statement = statement.where(*_FILTERS[name])
    if form.favorite is not None:
        statement = statement.where(Photo.favorite.is_(form.favorite))
    column = _SORT_COLUMNS[form.sort.removeprefix("-")]
    is_descending = form.sort.startswith("-")
    if form.goes_on:
        here = tuple_(column, Photo.id)
        after = bindparam("after", type_=UtcDateTime)
        place = tuple_(after, bindparam("after_id", type_=Uuid))
        # The second says nothing new, except to MariaDB, which makes no range of a row.
        statement = statement.where(
            *((here < place, column <= after) if is_descending else (here > place, column >= after))
        )
    order = (column.desc(), Photo.id.desc()) if is_descending else (column, Photo.id)
    return PreparedSelect(statement.order_by(*order).limit(bindparam("most")))
