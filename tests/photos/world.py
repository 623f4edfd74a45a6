"""The room of photos, wired as the factory wires it, around an object store in memory."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, func, insert, select, update

from app.accounts.models import User
from app.cache.announcements import Announcer
from app.db.base import Base, new_id, utc_now
from app.db.engine import Database
from app.db.outbox import OBJECT_DELETE, OutboxRow
from app.http.cursors import CursorSigner
from app.images.presets import Format, configured
from app.images.probe import DEFAULT_LIMITS, ProbedImage, probe
from app.ops.stamps import Stamps
from app.photos.documents import PhotoDocuments
from app.photos.leases import LeaseKeeper
from app.photos.ledger import Answer, UploadLedger
from app.photos.listing import PhotoLists
from app.photos.models import PENDING, READY, IdempotencyKey, Photo, PhotoPlace, PhotoRendition
from app.photos.photo_cache import PhotoCache
from app.photos.queries import FIND, Query
from app.photos.rows import NewPhoto, Reservation
from app.photos.schemas import UploadForm
from app.photos.service import PhotoService
from app.photos.upkeep import PhotoUpkeep
from app.photos.upload import UploadService
from app.settings_renditions import RenditionSettings
from app.stability import MemoryTier, Pipeline
from app.storage.probe import BytesBody
from tests.fakes.images import png, png_chunk
from tests.fakes.object_store import MemoryObjectStore

QUOTA_BYTES = 1_000_000
LEASE_SECONDS = 30.0
KEY_SECONDS = 3600.0
PRESETS = configured(RenditionSettings())
DOCUMENTS = PhotoDocuments(PRESETS)


def image(number: int = 0) -> bytes:
    """Return a small photo; each number has bytes of its own, all of one length."""
    return png(after=png_chunk(b"teSt", b"%08d" % number))


IMAGE_BYTES = len(image())
PROBED: ProbedImage = probe(BytesBody(image()))


class Observer:
    """Counts what it hears. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.heard: Counter[str] = Counter()
        self.depths: list[tuple[int, float]] = []
        self.renders: list[int] = []

    def duplicate(self) -> None:
        self._count("duplicate")

    def idempotent_replay(self) -> None:
        self._count("replay")

    def uploads_reaped(self, count: int) -> None:
        self._count("reaped", count)

    def outbox_depth(self, pending: int, oldest_age_seconds: float) -> None:
        self.depths.append((pending, oldest_age_seconds))

    def renders_due(self, count: int) -> None:
        self.renders.append(count)

    def conditional_request(self, *, current: bool) -> None:
        self._count("current" if current else "stale")

    def checksum_mismatch(self) -> None:
        self._count("mismatch")

    def shared_read(self) -> None:
        self._count("shared")

    def sample_checked(self, outcome: str) -> None:
        self._count(f"sampled {outcome}")

    def client_left(self, during: Literal["upload", "download"]) -> None:
        self._count(f"left {during}")

    def _count(self, what: str, times: int = 1) -> None:
        with self._lock:
            self.heard[what] += times


class World:
    """One process's room of photos."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = MemoryObjectStore()
        self.observer = Observer()
        self.keeper = LeaseKeeper(database, LEASE_SECONDS)
        self.ledger = UploadLedger(
            database, DOCUMENTS, default_quota_bytes=QUOTA_BYTES, idempotency_seconds=KEY_SECONDS
        )
        self.uploads = UploadService(
            self.ledger, self.store, self.keeper, limits=DEFAULT_LIMITS, observer=self.observer
        )
        self.known = _known(database)
        self.photos = PhotoService(database, self.known)
        self.lists = PhotoLists(database, CursorSigner(lambda: [b"k" * 32]))
        self.upkeep = PhotoUpkeep(
            database,
            self.store,
            Pipeline("events"),
            trash_days=30,
            observer=self.observer,
            changing=self.known.changing,
        )

    def row(self, owner_id: UUID, photo_id: UUID, query: Query = FIND) -> Any:
        """Return a photo as it stands in the database."""
        with self.database.read() as connection:
            return connection.execute(query, {"photo_id": photo_id, "owner_id": owner_id}).one()

    def new_user(self, *, quota_bytes: int | None = None) -> UUID:
        """Open an account."""
        user_id, now = new_id(), utc_now()
        with self.database.write() as connection:
            connection.execute(
                insert(User).values(
                    id=user_id,
                    email=f"{user_id.hex}@example.org",
                    password_hash="",
                    is_admin=False,
                    token_version=0,
                    quota_bytes=quota_bytes,
                    used_bytes=0,
                    created_at=now,
                    updated_at=now,
                )
            )
        return user_id

    def close_account(self, user_id: UUID) -> None:
        with self.database.write() as connection:
            connection.execute(update(User).where(User.id == user_id).values(deleted_at=utc_now()))

    def upload(
        self, owner_id: UUID, content: bytes, *, key: str | None = None, filename: str | None = None, **fields: Any
    ) -> Answer:
        """Take a photo in, with the form's fields."""
        form = UploadForm(**fields)
        return self.uploads.take(owner_id, BytesBody(content), form, filename=filename, idempotency_key=key)

    def reserve(self, photo: NewPhoto) -> Reservation:
        """Reserve under a lease of the usual length, which must succeed."""
        reserved = self.ledger.reserve(photo, new_id().hex, self.keeper.until())
        assert isinstance(reserved, Reservation)
        return reserved

    def rows(self, state: str | None = None) -> list[Row[Any]]:
        """Return all photos, or those in a state, in the order of their birth."""
        asked = select(*Photo.__table__.columns).order_by(Photo.id)
        with self.database.read() as connection:
            return list(connection.execute(asked if state is None else asked.where(Photo.state == state)).all())

    def outbox(self, kind: str | None = None) -> list[Row[Any]]:
        asked = select(*OutboxRow.__table__.columns).order_by(OutboxRow.id)
        with self.database.read() as connection:
            return list(connection.execute(asked if kind is None else asked.where(OutboxRow.kind == kind)).all())

    def keys(self) -> list[str]:
        """Return the idempotency keys that are kept."""
        with self.database.read() as connection:
            return list(connection.execute(select(IdempotencyKey.key).order_by(IdempotencyKey.key)).scalars())

    def used(self, owner_id: UUID) -> int:
        with self.database.read() as connection:
            return connection.execute(select(User.used_bytes).where(User.id == owner_id)).scalar_one()

    def assert_quota(self) -> None:
        """Invariant I4: what is used is the sum over ready and pending photos, for every account."""
        counted = select(Photo.owner_id, func.sum(Photo.size_bytes)).where(Photo.state.in_([READY, PENDING]))
        with self.database.read() as connection:
            sums = {owner: int(total) for owner, total in connection.execute(counted.group_by(Photo.owner_id))}
            for user_id, used in connection.execute(select(User.id, User.used_bytes)):
                assert used == sums.get(user_id, 0)

    def assert_settled(self) -> None:
        """Invariant I3: rows are ready, and each has its object, and no object is left over."""
        assert self.store.keys() == sorted(row.object_key for row in self.rows(READY))
        assert self.rows() == self.rows(READY)
        assert self.outbox(OBJECT_DELETE) == []

    def end_leases(self) -> None:
        """Let the time of every lease be over."""
        with self.database.write() as connection:
            connection.execute(
                update(Photo).where(Photo.state == PENDING).values(lease_until=utc_now() - dt.timedelta(seconds=1))
            )

    def make_due(self) -> None:
        """Let every delayed row of the outbox be due."""
        with self.database.write() as connection:
            connection.execute(update(OutboxRow).values(available_at=utc_now() - dt.timedelta(seconds=1)))

    def settle(self) -> None:
        """Let time pass and maintenance work."""
        self.end_leases()
        self.upkeep.reap_ended_leases()
        self.make_due()
        self.upkeep.relay_deletes()

    def remove_elsewhere(self, owner_id: UUID, photo_id: UUID) -> None:
        """Remove a photo for good as another instance does of which nobody here hears."""
        key = self.photos.get(owner_id, photo_id).original.object_key
        elsewhere = PhotoService(self.database, _known(self.database))
        elsewhere.delete(owner_id, photo_id, lambda _row: None, is_permanent=True)
        self.store.delete(key)

    def set_photo(self, photo_id: UUID, **values: Any) -> None:
        """Write columns of a photo past the services."""
        with self.database.write() as connection:
            connection.execute(update(Photo).where(Photo.id == photo_id).values(**values))

    def set_place(self, photo_id: UUID, latitude: float, longitude: float) -> None:
        """Say where a photo was taken."""
        with self.database.write() as connection:
            row = {"photo_id": photo_id, "latitude": latitude, "longitude": longitude}
            connection.execute(insert(PhotoPlace), row)


def _known(database: Database) -> PhotoCache:
    announcer = Announcer(Stamps(None), None, Pipeline("redis"))
    return PhotoCache(database, DOCUMENTS, [MemoryTier()], announcer, fresh_seconds=60.0, stale_seconds=0.0)


def new_photo(
    owner_id: UUID, content: bytes | None = None, *, key: str | None = None, form: UploadForm | None = None
) -> NewPhoto:
    return NewPhoto(owner_id, BytesBody(content or image()), PROBED, form or UploadForm(), None, key)


def write_rendition(
    world: World,
    photo_id: UUID,
    preset: str,
    image_format: Format = Format.WEBP,
    *,
    version: str | None = None,
    state: str = READY,
    sha256: str = "ab" * 32,
) -> str:
    """Write down a rendition of 320 by 240 pixels past the services; return its key."""
    version = version or PRESETS.version(preset)
    key = f"renditions/{photo_id.hex}/{preset}-{version}.{image_format.extension}"
    values = {"object_key": key, "sha256": sha256, "size_bytes": 7, "width": 320, "height": 240}
    named = {"photo_id": photo_id, "preset": preset, "format": image_format.value, "version": version}
    with world.database.write() as connection:
        connection.execute(insert(PhotoRendition).values(**named, **values, state=state, created_at=utc_now()))
    return key


def clear(database: Database) -> None:
    """Empty every table."""
    with database.write() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


def damage(store: MemoryObjectStore, key: str, content: bytes) -> None:
    """Change the last byte of an object that claims to be ``content``."""
    store.lay(key, content[:-1] + bytes([content[-1] ^ 1]), stated=content)
