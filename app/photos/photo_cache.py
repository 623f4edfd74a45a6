"""What is known of single photos: in memory, in Redis, in the database.

An entry belongs to one owner and one photo and holds what its reader needs: the version, the documents as they are
sent, and the facts of its bytes. So a look at a photo, a 304, and the right to read a photo's bytes cost no question
to the database while an entry is fresh. A photo that is not there is no entry: it may be there at the next moment.

While the database fails, entries that are past their time still answer (``cache.stale_seconds``).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol
from uuid import UUID

import orjson

from app.cache.tiers import PoisonedEntryError
from app.db.engine import Database
from app.errors import DatabaseUnavailableError, NotFoundError
from app.photos.documents import PhotoDocuments, write_json
from app.photos.queries import SHOW_WHOLE
from app.photos.rows import folder_of
from app.stability import Cache, CacheOptions, Call, Classification, Figure, Pipeline, Tier


@dataclass(frozen=True, slots=True)
class Original:
    """The facts of a photo's bytes.

    Attributes:
        id: The photo's.
        object_key: Where the store has them.
        sha256: Lower-case hex digest.
        size_bytes: How many.
        content_type: The media type.
        width: Pixels, upright.
        height: Pixels, upright.
        frames: Pictures of an animation, else 1.
        original_filename: What the client called them; None when it said nothing.
        created_at: Since when the photo is there, UTC.
    """

    id: UUID
    object_key: str
    sha256: str
    size_bytes: int
    content_type: str
    width: int
    height: int
    frames: int
    original_filename: str | None
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class KnownPhoto:
    """A photo as its owner may see it.

    Attributes:
        owner_id: Whose.
        mark: Another one for each of its documents; see :meth:`app.photos.documents.PhotoDocuments.mark`.
        plain: Its document as JSON, for callers who may not know the place.
        with_place: The same with the place.
        original: The facts of its bytes.
    """

    owner_id: UUID
    mark: str
    plain: bytes
    with_place: bytes
    original: Original


class Announcements(Protocol):
    """Tells other processes and instances of changes. Must not raise."""

    def key(self, name: str) -> str:
        """Return what something is remembered under now; empty when it may not be remembered."""
        ...

    def changing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Surround a change, its commit included; how it ends is of no matter."""
        ...


class PhotoCache:
    """What is known of photos. Thread-safe.

    Args:
        database: The truth.
        documents: Writes what their readers get.
        tiers: Fastest first; each for this cache only. Without any, each question goes to the database.
        announcements: Who tells the others of changes.
        fresh_seconds: How long an entry answers without the database.
        stale_seconds: How long after that it answers while the database fails.
    """

    def __init__(
        self,
        database: Database,
        documents: PhotoDocuments,
        tiers: Sequence[Tier],
        announcements: Announcements,
        *,
        fresh_seconds: float,
        stale_seconds: float,
    ) -> None:
        self._database = database
        self._documents = documents
        self._announcements = announcements
        self._cache = None
        if tiers:
            self._cache = Cache(
                "photos",
                CacheOptions(ttl_seconds=fresh_seconds, stale_if_error_seconds=stale_seconds),
                tiers=tiers,
                classification=Classification(failures=(DatabaseUnavailableError,)),
                negative=(NotFoundError,),  # counted as such; none is kept
            )
        self._run = Pipeline("photos", [] if self._cache is None else [self._cache]).run

    def figures(self) -> Iterator[Figure]:
        """Yield what became of look-ups, for metrics."""
        return iter(()) if self._cache is None else self._cache.figures()

    def get(self, owner_id: UUID, photo_id: UUID) -> KnownPhoto:
        """Return one photo, also from the trash.

        Raises:
            NotFoundError: Unknown, not ready, or another owner's.
            DatabaseUnavailableError: Nothing is known of it, and the database does not answer.
        """
        call: Call[KnownPhoto] = Call(self._read, owner_id, photo_id)
        call.key = self._announcements.key(_name(owner_id, photo_id))
        return self._run(call)

    def changing(self, owner_id: UUID, photo_ids: Sequence[UUID]) -> AbstractContextManager[None]:
        """Surround a change of photos, its commit included: afterwards nobody answers with what was known of them.

        How the change ends is of no matter, as it may not be known.
        """
        return self._announcements.changing([_name(owner_id, photo_id) for photo_id in photo_ids])

    def _read(self, owner_id: UUID, photo_id: UUID) -> KnownPhoto:
        found = self._database.ask(SHOW_WHOLE, {"photo_id": photo_id, "owner_id": owner_id})
        if not found:
            raise NotFoundError("There is no such photo.")
        return _known(self._documents, owner_id, found[0])


class PhotoCodec:
    """Writes what is known of a photo as JSON, for a tier outside this process.

    Args:
        form: Of the documents; those of another form are nothing.
    """

    def __init__(self, form: str) -> None:
        self._form = form

    def encode(self, value: Any) -> bytes:
        """Return a :class:`KnownPhoto` as JSON.

        Raises:
            ValueError: It is none.
        """
        if not isinstance(value, KnownPhoto):
            raise ValueError("not a photo")  # noqa: TRY004  # what a codec raises
        return orjson.dumps(
            {
                "form": self._form,
                "owner_id": value.owner_id,
                "mark": value.mark,
                "plain": value.plain.decode(),
                "with_place": value.with_place.decode(),
                "original": asdict(value.original),
            }
        )

    def decode(self, name: str, raw: bytes) -> KnownPhoto:
        """Return what :meth:`encode` wrote of the photo of this name.

        Raises:
            PoisonedEntryError: It is something else.
        """
        try:
            known = self._read(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PoisonedEntryError("not a photo") from error
        is_owners = known.original.object_key.startswith(folder_of(known.owner_id))
        if name != _name(known.owner_id, known.original.id) or not is_owners:
            raise PoisonedEntryError("another photo, or bytes of another owner")
        return known

    def _read(self, raw: bytes) -> KnownPhoto:
        said = orjson.loads(raw)
        original = said["original"]
        if said["form"] != self._form or set(original) != _ORIGINAL_NAMES or not _is_sound(said, original):
            raise ValueError("not a photo")
        photo_id, created_at = UUID(original["id"]), dt.datetime.fromisoformat(original["created_at"])
        return KnownPhoto(
            UUID(said["owner_id"]),
            said["mark"],
            said["plain"].encode(),
            said["with_place"].encode(),
            Original(**{**original, "id": photo_id, "created_at": created_at}),
        )


_MARK = re.compile(r"v[0-9]{1,19}-[0-9a-f]{1,32}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REST_BYTES = 1000
_ORIGINAL_NAMES = {field.name for field in fields(Original)}


def _is_sound(said: Any, original: Any) -> bool:
    """Tell whether values have the types that JSON can say; the rest is judged where it is read."""
    texts = [
        *(said[name] for name in ("mark", "plain", "with_place")),
        *(original[name] for name in ("object_key", "sha256", "content_type")),
    ]
    numbers = [original[name] for name in ("size_bytes", "width", "height", "frames")]
    name = original["original_filename"]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and _MARK.fullmatch(said["mark"]) is not None
        and _SHA256.fullmatch(original["sha256"]) is not None
        and (name is None or isinstance(name, str))
        and all(orjson.loads(said[which])["id"] == original["id"] for which in ("plain", "with_place"))
    )


def memory_of(value: Any) -> int:
    """Return about how many bytes a photo takes in memory."""
    return len(value.plain) + (0 if value.with_place is value.plain else len(value.with_place)) + _REST_BYTES


def _name(owner_id: UUID, photo_id: UUID) -> str:
    return f"photo:{owner_id.hex}:{photo_id.hex}"


def _known(documents: PhotoDocuments, owner_id: UUID, row: Any) -> KnownPhoto:
    document = documents.document(row, with_place=False)
    plain = write_json(document)
    with_place = plain if row.latitude is None else write_json(documents.document(row, with_place=True))
    return KnownPhoto(
        owner_id,
        documents.mark(document, row.version),
        plain,
        with_place,
        Original(
            row.id,
            row.object_key,
            row.sha256,
            row.size_bytes,
            row.content_type,
            row.width,
            row.height,
            row.frames,
            row.original_filename,
            row.created_at,
        ),
    )
