"""What is known of photos: never another one's, never an old one after a change, and what is there in an outage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from app.cache.announcements import Announcer
from app.cache.tiers import BriefMemory, PoisonedEntryError
from app.db import migrate
from app.db.base import new_id
from app.db.engine import Database
from app.errors import DatabaseUnavailableError, NotFoundError
from app.ops.stamps import Stamps
from app.photos.photo_cache import KnownPhoto, PhotoCache, PhotoCodec, memory_of
from app.photos.schemas import PhotoChanges
from app.settings import DatabaseSettings
from app.stability import Pipeline
from tests.db.conftest import Observer
from tests.fakes.clocks import HandClock
from tests.photos.world import DOCUMENTS, World, image

FRESH_SECONDS = 30.0
STALE_SECONDS = 3600.0


class Counted(Database):
    """Counts prepared reads, and can be dead or slow."""

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(settings, Observer())
        self.asked = 0
        self.is_dead = False
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def ask(self, select: Any, values: Any) -> list[Any]:
        self.asked += 1
        self.before()
        if self.is_dead:
            raise DatabaseUnavailableError("The database is not available.")
        found = super().ask(select, values)
        self.after()
        return found


class Room:
    """Photos, and caches of them as several workers and hosts have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.database = Counted(DatabaseSettings(url=SecretStr(f"sqlite:///{folder}/room.db")))
        migrate.upgrade(self.database)
        self.world = World(self.database)
        self.owner_id = self.world.new_user()
        self.photo_id: UUID = self.world.upload(self.owner_id, image(), filename="a.png").document["id"]
        self.database.asked = 0

    def worker(self, host: str = "one") -> PhotoCache:
        """Return the cache of one more worker of a host."""
        memory = BriefMemory(100, lambda: FRESH_SECONDS, max_entry_bytes=65_536, size_of=memory_of, clock=self.clock)
        announcer = Announcer(Stamps(self.folder / host, clock=self.clock), None, Pipeline("redis"))
        return PhotoCache(
            self.database, DOCUMENTS, [memory], announcer, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS
        )

    def get(self, cache: PhotoCache) -> KnownPhoto:
        return cache.get(self.owner_id, self.photo_id)

    def change(self, cache: PhotoCache, title: str) -> None:
        with cache.changing(self.owner_id, [self.photo_id]):
            self.world.photos.change(self.owner_id, self.photo_id, PhotoChanges(title=title), lambda _row: None)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    with closing(made.database):
        yield made
        made.world.keeper.close()


def title_of(known: KnownPhoto) -> object:
    return json.loads(known.plain)["title"]


def test_a_known_photo_costs_no_question(room: Room) -> None:
    cache = room.worker()
    first = room.get(cache)

    assert [room.get(cache) for _ in range(10)] == [first] * 10
    assert room.database.asked == 1


def test_another_owner_never_finds_it_although_it_is_known(room: Room) -> None:
    cache, other_id = room.worker(), room.world.new_user()
    room.get(cache)

    with pytest.raises(NotFoundError):
        cache.get(other_id, room.photo_id)


def test_a_photo_that_is_not_there_is_asked_for_each_time_and_is_no_error_of_the_database(room: Room) -> None:
    cache, missing = room.worker(), new_id()
    for _ in range(3):
        with pytest.raises(NotFoundError):
            cache.get(room.owner_id, missing)

    seen = {figure.labels["result"]: figure.value for figure in cache.figures() if "source" in figure.labels.values()}
    assert room.database.asked == 3
    assert (seen["negative"], seen["error"]) == (3, 0)


def test_no_worker_of_a_host_answers_with_what_another_has_changed(room: Room) -> None:
    workers = [room.worker() for _ in range(3)]
    stale = 0
    for number in range(300):
        room.change(workers[number % 3], str(number))
        stale += sum(title_of(room.get(worker)) != str(number) for worker in workers)

    assert stale == 0


def test_a_reader_that_comes_after_a_change_does_not_get_the_answer_of_one_before(room: Room) -> None:
    here, there = room.worker(), room.worker()
    has_read, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        if not has_read.is_set():
            has_read.set()
            may_go.wait(20)

    room.database.after = hold
    early: list[KnownPhoto] = []
    reader = threading.Thread(target=lambda: early.append(room.get(there)))
    reader.start()
    assert has_read.wait(20)

    room.change(here, "new")
    late = room.get(there)
    may_go.set()
    reader.join()

    assert title_of(late) == "new"
    assert title_of(early[0]) is None
    assert title_of(room.get(there)) == "new"


def test_a_worker_that_dies_between_commit_and_word_leaves_nobody_with_the_old_photo(room: Room) -> None:
    here, there = room.worker(), room.worker()
    room.get(there)
    change = here.changing(room.owner_id, [room.photo_id])
    change.__enter__()  # and no more of it: it was killed
    room.world.photos.change(room.owner_id, room.photo_id, PhotoChanges(title="new"), lambda _row: None)

    assert title_of(room.get(there)) == "new"


def test_another_host_without_redis_knows_it_within_thirty_seconds(room: Room) -> None:
    here, elsewhere = room.worker("one"), room.worker("two")
    room.get(elsewhere)
    room.change(here, "new")

    before = title_of(room.get(elsewhere))
    room.clock.advance(FRESH_SECONDS)

    assert before is None  # as documented: nobody has told it
    assert title_of(room.get(elsewhere)) == "new"


def test_200_callers_of_a_cold_key_ask_once(room: Room) -> None:
    cache, everyone = room.worker(), threading.Barrier(201)
    may_go = threading.Event()
    room.database.before = lambda: may_go.wait(20)
    got: list[KnownPhoto] = []

    def ask() -> None:
        everyone.wait(20)
        got.append(room.get(cache))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    everyone.wait(20)
    may_go.set()
    for thread in threads:
        thread.join()

    assert (len(got), room.database.asked) == (200, 1)


def test_without_a_cache_each_of_them_asks(room: Room) -> None:
    uncached = PhotoCache(
        room.database,
        DOCUMENTS,
        [],
        Announcer(Stamps(None), None, Pipeline("redis")),
        fresh_seconds=30.0,
        stale_seconds=0.0,
    )

    for _ in range(20):
        room.get(uncached)

    assert room.database.asked == 20
    assert list(uncached.figures()) == []


def test_while_the_database_fails_what_was_known_is_served_for_its_stale_time(room: Room) -> None:
    cache = room.worker()
    known = room.get(cache)
    room.database.is_dead = True
    room.clock.advance(FRESH_SECONDS + STALE_SECONDS - 1)

    assert room.get(cache) == known
    room.clock.advance(2)
    with pytest.raises(DatabaseUnavailableError):
        room.get(cache)


def test_what_was_removed_is_not_served_while_the_database_fails(room: Room) -> None:
    cache = room.worker()
    room.get(cache)
    with cache.changing(room.owner_id, [room.photo_id]):
        room.world.photos.delete(room.owner_id, room.photo_id, lambda _row: None, is_permanent=True)
    room.database.is_dead = True

    with pytest.raises(DatabaseUnavailableError):
        room.get(cache)


def test_a_write_whose_outcome_is_unknown_ends_what_was_known(room: Room) -> None:
    cache = room.worker()
    room.get(cache)

    def lose_the_answer() -> None:
        with cache.changing(room.owner_id, [room.photo_id]):
            room.world.photos.change(room.owner_id, room.photo_id, PhotoChanges(title="new"), lambda _row: None)
            raise DatabaseUnavailableError("The connection died at the commit.")

    with pytest.raises(DatabaseUnavailableError):
        lose_the_answer()

    assert title_of(room.get(cache)) == "new"


# --- What may come from Redis ------------------------------------------------------------------------------------


def name_of(room: Room) -> str:
    return f"photo:{room.owner_id.hex}:{room.photo_id.hex}"


def test_what_is_written_is_what_is_read(room: Room) -> None:
    known = room.get(room.worker())
    codec = PhotoCodec(DOCUMENTS.form)

    assert codec.decode(name_of(room), codec.encode(known)) == known


def altered(raw: bytes, path: Sequence[str], value: object) -> bytes:
    document = json.loads(raw)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document).encode()


OTHER = "0198c0de-0000-7000-8000-000000000000"
POISON: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "not json": lambda raw: raw[:-1],
    "not text": lambda _: b"\x80\x04\x95",
    "a number": lambda _: b"1",
    "deep": lambda _: b"[" * 60_000 + b"]" * 60_000,
    "empty": lambda _: b"{}",
    "another form": lambda raw: altered(raw, ["form"], "old"),
    "another owner": lambda raw: altered(raw, ["owner_id"], OTHER),
    "another photo": lambda raw: altered(raw, ["original", "id"], OTHER),
    "no owner": lambda raw: altered(raw, ["owner_id"], 7),
    "a mark of digits": lambda raw: altered(raw, ["mark"], 7),
    "a mark of another kind": lambda raw: altered(raw, ["mark"], 'v1-"x'),
    "a mark of two lines": lambda raw: altered(raw, ["mark"], "v1-abc\r\nSet-Cookie: a=b"),
    "a width of truth": lambda raw: altered(raw, ["original", "width"], True),
    "a size below 0": lambda raw: altered(raw, ["original", "size_bytes"], -1),
    "a size of nothing": lambda raw: altered(raw, ["original", "size_bytes"], None),
    "no time": lambda raw: altered(raw, ["original", "created_at"], "yesterday"),
    "one fact more": lambda raw: altered(raw, ["original", "more"], 1),
    "facts of text": lambda raw: altered(raw, ["original"], "facts"),
    "a document of another photo": lambda raw: altered(raw, ["plain"], json.dumps({"id": OTHER})),
    "a document that is none": lambda raw: altered(raw, ["with_place"], "<html>"),
    "bytes of another owner": lambda raw: altered(raw, ["original", "object_key"], "originals/other/1"),
    "no digest": lambda raw: altered(raw, ["original", "sha256"], "abc"),
}


@pytest.mark.parametrize("kind", POISON)
def test_what_is_not_exactly_this_photo_is_refused(room: Room, kind: str) -> None:
    codec = PhotoCodec(DOCUMENTS.form)
    raw = POISON[kind](codec.encode(room.get(room.worker())))

    with pytest.raises(PoisonedEntryError):
        codec.decode(name_of(room), raw)


def test_nothing_but_a_photo_is_written() -> None:
    with pytest.raises(ValueError, match="not a photo"):
        PhotoCodec(DOCUMENTS.form).encode({"id": 1})
