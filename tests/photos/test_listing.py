"""Lists: the right photos in the right order, page after page, and each page found by an index."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from app.db.base import new_id
from app.db.prepared import Record
from app.errors import MalformedRequestError
from app.http.cursors import CursorSigner
from app.photos.listing import PhotoLists
from app.photos.models import DELETING, PENDING, READY, Photo, PhotoPlace, PhotoTag
from app.photos.schemas import PhotoQuery
from tests.photos.world import World

START = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
LATER = START + dt.timedelta(hours=1)
WORDS = ["sea", "SEA", "Ärger", "ärger", "100%", "100x", "a_b", "a-b", "back\\slash", "a/b"]
SORTS = ["-created_at", "created_at", "-taken_at", "taken_at"]
TYPES = ["image/png", "image/jpeg"]
SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def add(world: World, owner_id: UUID, **facts: Any) -> dict[str, Any]:
    """Write a photo's row with these facts; return all of it."""
    (row,) = add_all(world, owner_id, [facts])
    return row


def add_all(world: World, owner_id: UUID, photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [_row(owner_id, facts) for facts in photos]
    tags = [
        {"photo_id": row["id"], "owner_id": owner_id, "tag": tag}
        for row in rows
        for tag in dict.fromkeys(row["tags"])
    ]
    with world.database.write() as connection:
        if rows:
            connection.execute(insert(Photo), rows)
        if tags:
            connection.execute(insert(PhotoTag), tags)
    return rows


def _row(owner_id: UUID, facts: dict[str, Any]) -> dict[str, Any]:
    photo_id = new_id()
    row: dict[str, Any] = {
        "id": photo_id,
        "owner_id": owner_id,
        "state": READY,
        "version": 1,
        "object_key": f"originals/{photo_id.hex}",
        "sha256": photo_id.hex * 2,
        "size_bytes": 1,
        "content_type": "image/png",
        "dedup_key": None,
        "width": 1,
        "height": 1,
        "frames": 1,
        "orientation": 1,
        "camera": None,
        "title": None,
        "description": None,
        "tags": [],
        "favorite": False,
        "original_filename": None,
        "taken_at": None,
        "created_at": START,
        "trashed_at": None,
        "lease_token": None,
        "lease_until": None,
        **facts,
    }
    row["timeline_at"] = row["taken_at"] or row["created_at"]
    row["updated_at"] = row["created_at"]
    return row


def ids_of_all(world: World, owner_id: UUID, **asked: Any) -> list[UUID]:
    """Walk all pages."""
    return [row.id for page in walk(world, owner_id, **asked) for row in page]


def walk(world: World, owner_id: UUID, **asked: Any) -> Iterator[list[Record]]:
    cursors: list[str | None] = [None]
    while True:
        page = world.lists.page(owner_id, PhotoQuery(**asked, cursor=cursors[-1]))
        yield list(page.rows)
        if page.next_cursor is None:
            return
        assert page.next_cursor not in cursors  # or the pages would never end
        cursors.append(page.next_cursor)


def truth(rows: list[dict[str, Any]], **asked: Any) -> list[UUID]:
    """Say in plain Python which photos a query means, and in which order."""
    sort = asked.get("sort", "-created_at")
    name = "timeline_at" if sort.endswith("taken_at") else "created_at"
    found = [row for row in rows if is_meant(row, asked)]
    found.sort(key=lambda row: (row[name], row["id"]), reverse=sort.startswith("-"))
    return [row["id"] for row in found]


def is_meant(row: dict[str, Any], asked: dict[str, Any]) -> bool:
    searched = (row["title"], row["description"], row["original_filename"], row["camera"])
    taken_at = row["taken_at"]
    return all(
        (
            row["state"] == READY,
            (row["trashed_at"] is not None) is asked.get("trashed", False),
            "tag" not in asked or asked["tag"] in row["tags"],
            "q" not in asked or any(text and asked["q"].lower() in text.lower() for text in searched),
            "taken_after" not in asked or (taken_at is not None and taken_at >= asked["taken_after"]),
            "taken_before" not in asked or (taken_at is not None and taken_at < asked["taken_before"]),
            "content_type" not in asked or row["content_type"] == asked["content_type"],
            "favorite" not in asked or row["favorite"] is asked["favorite"],
        )
    )


instants = st.integers(0, 6).map(lambda hours: START + dt.timedelta(hours=hours, microseconds=hours))
words = st.sampled_from(WORDS)
facts = st.fixed_dictionaries(
    {
        "state": st.sampled_from([READY, READY, READY, READY, PENDING, DELETING]),
        "created_at": instants,
        "taken_at": st.none() | instants,
        "trashed_at": st.none() | st.none() | instants,
        "title": st.none() | words,
        "description": st.none() | words,
        "original_filename": st.none() | words,
        "camera": st.none() | words,
        "tags": st.lists(st.sampled_from(["sea", "Sea", "ä"]), unique=True, max_size=3),
        "content_type": st.sampled_from(TYPES),
        "favorite": st.booleans(),
    }
)
FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "tag": st.sampled_from(["sea", "Sea", "ä", "none"]),
    "q": st.sampled_from([*WORDS, "e", "%", "_", "\\", "/", "Ä", "0"]),
    "taken_after": instants,
    "taken_before": instants,
    "content_type": st.sampled_from(TYPES),
    "favorite": st.booleans(),
    "trashed": st.booleans(),
}
queries = st.fixed_dictionaries(
    {"sort": st.sampled_from(SORTS), "limit": st.integers(1, 5)},
    optional=FILTERS,
)


@given(st.lists(facts, max_size=14), st.lists(queries, min_size=3, max_size=8))
@SETTINGS
def test_every_combination_of_filters_finds_what_it_says_in_order(
    any_world: World, photos: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    owner_id = any_world.new_user()
    add_all(any_world, any_world.new_user(), photos)
    rows = add_all(any_world, owner_id, photos)

    for query in asked:
        assert ids_of_all(any_world, owner_id, **query) == truth(rows, **query)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_each_filter_alone_finds_some_and_leaves_some(any_world: World, name: str) -> None:
    owner_id = any_world.new_user()
    rows = add_all(
        any_world,
        owner_id,
        [
            {"tags": ["sea"], "title": "At SEA", "taken_at": START, "favorite": True, "trashed_at": None},
            {"content_type": "image/jpeg", "taken_at": START + dt.timedelta(hours=2)},
            {"content_type": "image/jpeg", "trashed_at": START},
        ],
    )
    value = {
        "tag": "sea",
        "q": "at sea",
        "taken_after": START + dt.timedelta(hours=1),
        "taken_before": START + dt.timedelta(hours=1),
        "content_type": "image/jpeg",
        "favorite": True,
        "trashed": True,
    }[name]

    found = ids_of_all(any_world, owner_id, **{name: value})

    assert len(found) == 1
    assert found == truth(rows, **{name: value})


@pytest.mark.parametrize(("wanted", "text"), [("ä", "Ärger"), ("ÄRGER", "ärger"), ("ж", "Ж"), ("É", "café")])
def test_a_search_knows_upper_and_lower_case_of_every_script(any_world: World, wanted: str, text: str) -> None:
    owner_id = any_world.new_user()
    row = add(any_world, owner_id, title=text)

    assert ids_of_all(any_world, owner_id, q=wanted) == [row["id"]]


@pytest.mark.parametrize(
    ("wanted", "found", "not_found"),
    [("0%", "100%", "100x"), ("a_b", "a_b", "a-b"), ("k\\s", "back\\slash", "backslash"), ("a/b", "a/b", "a//b")],
)
def test_a_search_takes_every_character_for_itself(any_world: World, wanted: str, found: str, not_found: str) -> None:
    owner_id = any_world.new_user()
    rows = add_all(any_world, owner_id, [{"title": found}, {"title": not_found}])

    assert ids_of_all(any_world, owner_id, q=wanted) == [rows[0]["id"]]


@given(
    st.lists(st.tuples(st.sampled_from(["insert", "delete", "trash"]), st.integers(0, 9), instants), max_size=20),
    st.sampled_from(SORTS),
    st.integers(1, 4),
)
@SETTINGS
def test_pages_show_each_photo_that_stays_exactly_once_while_others_come_and_go(
    any_world: World, changes: list[tuple[str, int, dt.datetime]], sort: str, limit: int
) -> None:
    owner_id = any_world.new_user()
    start = [{"created_at": START + dt.timedelta(hours=number % 4)} for number in range(10)]
    rows = add_all(any_world, owner_id, start)
    gone: set[UUID] = set()
    shown: list[UUID] = []
    waiting = list(changes)

    for page in walk(any_world, owner_id, sort=sort, limit=limit):
        shown += [row.id for row in page]
        for kind, number, instant in [waiting.pop() for _ in range(min(3, len(waiting)))]:
            if kind == "insert":
                add(any_world, owner_id, created_at=instant)
            else:
                values = {"state": DELETING} if kind == "delete" else {"trashed_at": START}
                any_world.set_photo(rows[number]["id"], **values)
                gone.add(rows[number]["id"])

    staying = [photo_id for photo_id in truth(rows, sort=sort) if photo_id not in gone]
    assert len(set(shown)) == len(shown)
    assert [photo_id for photo_id in shown if photo_id in staying] == staying


def test_the_last_page_has_no_cursor_even_when_it_is_full(world: World) -> None:
    owner_id = world.new_user()
    add_all(world, owner_id, [{} for _ in range(4)])

    pages = list(walk(world, owner_id, limit=2))

    assert [len(page) for page in pages] == [2, 2]


def cursor_of(world: World, owner_id: UUID, **asked: Any) -> str:
    cursor = world.lists.page(owner_id, PhotoQuery(**asked, limit=1)).next_cursor
    assert cursor is not None
    return cursor


@pytest.mark.parametrize(
    "other",
    [
        {"sort": "created_at"},
        {"sort": "-taken_at"},
        {"q": "sea"},
        {"tag": "sea"},
        {"favorite": True},
        {"trashed": True},
        {"content_type": "image/png"},
        {"taken_after": START},
        {"taken_before": START},
    ],
)
def test_a_cursor_belongs_to_its_question(world: World, other: dict[str, Any]) -> None:
    owner_id = world.new_user()
    add_all(world, owner_id, [{}, {}])
    cursor = cursor_of(world, owner_id)

    with pytest.raises(MalformedRequestError):
        world.lists.page(owner_id, PhotoQuery(**other, cursor=cursor))


def test_a_cursor_belongs_to_its_owner_but_not_to_its_page_size(world: World) -> None:
    owner_id, other_id = world.new_user(), world.new_user()
    add_all(world, owner_id, [{}, {}, {}])
    cursor = cursor_of(world, owner_id)

    assert len(world.lists.page(owner_id, PhotoQuery(cursor=cursor, limit=50)).rows) == 2
    with pytest.raises(MalformedRequestError):
        world.lists.page(other_id, PhotoQuery(cursor=cursor))


def test_a_cursor_that_was_changed_cut_or_made_up_is_refused(world: World) -> None:
    owner_id = world.new_user()
    add_all(world, owner_id, [{}, {}])
    cursor = cursor_of(world, owner_id)
    middle = len(cursor) // 2
    changed = cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :]

    for bad in ("", "x", "ä", cursor[:-4], changed, "!" * 40, "A" * 512, "A" * 64):
        with pytest.raises(MalformedRequestError):
            world.lists.page(owner_id, PhotoQuery(cursor=bad))


@pytest.mark.parametrize("position", [[], ["x"], ["2026-05-01T00:00:00+00:00", "x"], ["x", str(UUID(int=1))]])
def test_a_signed_cursor_of_another_form_is_refused(world: World, position: list[str]) -> None:
    owner_id = world.new_user()
    query = PhotoQuery()
    signer = CursorSigner(lambda: [b"k" * 32])
    question = f"photos {owner_id.hex} {query.model_dump_json(exclude={'cursor', 'limit'})}"
    lists = PhotoLists(world.database, signer)

    with pytest.raises(MalformedRequestError):
        lists.page(owner_id, PhotoQuery(cursor=signer.sign(question, position)))


@pytest.mark.parametrize("asked", [{}, {"tag": "sea"}, {"q": "pier"}, {"sort": "taken_at"}], ids=str)
def test_places_are_shown_to_who_may_know_them_and_asked_for_only_then(
    any_world: World, asked: dict[str, Any]
) -> None:
    owner_id = any_world.new_user()
    facts = {"tags": ["sea"], "title": "pier"}
    here, nowhere = add_all(any_world, owner_id, [{**facts, "created_at": START}, {**facts, "created_at": LATER}])
    any_world.set_place(here["id"], 54.5, 10.25)
    query = PhotoQuery(**asked)

    with mock.patch.object(any_world.database, "ask", wraps=any_world.database.ask) as ask:
        plain = any_world.lists.page(owner_id, query)
        placed = any_world.lists.page(owner_id, query, with_place=True)

    texts = [call.args[0].form(any_world.database.engine.dialect).text for call in ask.call_args_list]
    assert ["photo_places" in text for text in texts] == [False, True]
    assert [row.id for row in plain.rows] == [row.id for row in placed.rows]
    assert {row.id: (row.latitude, row.longitude) for row in placed.rows} == {
        here["id"]: (54.5, 10.25),
        nowhere["id"]: (None, None),
    }
    assert not hasattr(plain.rows[0], "latitude")


def plan_of_deep_page(world: World, owner_id: UUID, *, with_place: bool, **asked: Any) -> str:
    """Return how the database runs the second page of a list."""
    cursor = cursor_of(world, owner_id, **asked)
    with mock.patch.object(world.database, "ask", wraps=world.database.ask) as ask:
        world.lists.page(owner_id, PhotoQuery(**asked, cursor=cursor), with_place=with_place)
    ((select, given), _) = ask.call_args
    form = select.form(world.database.engine.dialect)
    statement, written = form.text, form.parameters(given)
    values = written if isinstance(written, dict) else tuple(written)
    # Written out: the plan of a prepared statement, which knows no values, then fits the partial index as well.
    assert "state = 'ready'" in statement
    asking = {"sqlite": "EXPLAIN QUERY PLAN", "mysql": "EXPLAIN FORMAT=JSON"}.get(
        world.database.dialect, "EXPLAIN (FORMAT JSON)"
    )
    with world.database.read() as connection:
        rows = connection.exec_driver_sql(f"{asking} {statement}", values).all()
    return "\n".join(json.dumps([str(part) if not isinstance(part, list) else part for part in row]) for row in rows)


@pytest.mark.parametrize("with_place", [False, True])
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"sort": "-created_at"}, "ix_photos_visible_created"),
        ({"sort": "created_at"}, "ix_photos_visible_created"),
        ({"sort": "-taken_at"}, "ix_photos_visible_timeline"),
        ({"sort": "taken_at"}, "ix_photos_visible_timeline"),
        ({"sort": "-created_at", "trashed": True}, "ix_photos_trashed"),
        ({"sort": "taken_at", "taken_after": START}, "ix_photos_visible_timeline"),
    ],
)
def test_a_page_at_any_depth_is_a_range_of_an_index_without_sorting(
    any_world: World, asked: dict[str, Any], index: str, *, with_place: bool
) -> None:
    owner_id = any_world.new_user()
    photos = [
        {
            "created_at": START + dt.timedelta(minutes=number),
            "taken_at": START + dt.timedelta(minutes=number),
            "trashed_at": START if asked.get("trashed") else None,
        }
        for number in range(1500)
    ]
    rows = add_all(any_world, owner_id, photos)
    places = [{"photo_id": row["id"], "latitude": 54.5, "longitude": 10.25} for row in rows[::2]]
    with any_world.database.write() as connection:
        connection.execute(insert(PhotoPlace), places)
    analyze = {"postgresql": "ANALYZE photos, photo_places", "mysql": "ANALYZE TABLE photos, photo_places"}
    if any_world.database.dialect in analyze:
        with any_world.database.write() as connection:
            connection.exec_driver_sql(analyze[any_world.database.dialect])

    plan = plan_of_deep_page(any_world, owner_id, with_place=with_place, **asked)

    if any_world.database.dialect == "mysql":  # it has no partial indexes: two of them are one and the same
        index = index.replace("visible_created", "trashed")
    assert index in plan
    assert "TEMP B-TREE" not in plan
    assert '"Sort"' not in plan
    if any_world.database.dialect == "sqlite":
        assert "SEARCH photos USING INDEX" in plan
        assert "created_at" in plan or "timeline_at" in plan
    elif any_world.database.dialect == "mysql":
        assert "filesort" not in plan
        assert '"ALL"' not in plan.replace("\\", "")
    else:
        assert "Seq Scan" not in plan
        assert "ROW(" in plan.split('"Index Cond"')[1]
