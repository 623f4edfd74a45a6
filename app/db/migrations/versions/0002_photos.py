"""Photos, their tags, and idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.db.base import UtcDateTime
from app.db.tables import create_index, create_table, drop_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_photos()
    _index_photos()
    _create_photo_tags()
    _create_idempotency_keys()


def downgrade() -> None:
    drop_table("idempotency_keys")
    drop_table("photo_tags")
    drop_table("photos")


def _create_photos() -> None:
    create_table(
        "photos",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("object_key", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("content_type", sa.String(length=40), nullable=False),
        sa.Column("dedup_key", sa.String(length=100), nullable=True),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("orientation", sa.Integer(), nullable=False),
        sa.Column("camera", sa.String(length=128), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("title", sa.String(length=200), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("favorite", sa.Boolean(), nullable=False),
        sa.Column("original_filename", sa.String(length=255), nullable=True),
        sa.Column("taken_at", UtcDateTime(), nullable=True),
        sa.Column("timeline_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("trashed_at", UtcDateTime(), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_photos_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_photos")),
        sa.UniqueConstraint("dedup_key", name=op.f("uq_photos_dedup_key")),
        sa.UniqueConstraint("object_key", name=op.f("uq_photos_object_key")),
    )


def _index_photos() -> None:
    create_index(
        "ix_photos_lease_until",
        "photos",
        ["lease_until"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    create_index(
        "ix_photos_trashed",
        "photos",
        ["owner_id", "created_at", "id"],
        postgresql_where=sa.text("state = 'ready' AND trashed_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'ready' AND trashed_at IS NOT NULL"),
    )
    create_index(
        "ix_photos_trashed_at",
        "photos",
        ["trashed_at"],
        postgresql_where=sa.text("state = 'ready' AND trashed_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'ready' AND trashed_at IS NOT NULL"),
    )
    create_index(
        "ix_photos_visible_created",
        "photos",
        ["owner_id", "created_at", "id"],
        postgresql_where=sa.text("state = 'ready' AND trashed_at IS NULL"),
        sqlite_where=sa.text("state = 'ready' AND trashed_at IS NULL"),
    )
    create_index(
        "ix_photos_visible_timeline",
        "photos",
        ["owner_id", "timeline_at", "id"],
        postgresql_where=sa.text("state = 'ready' AND trashed_at IS NULL"),
        sqlite_where=sa.text("state = 'ready' AND trashed_at IS NULL"),
    )


def _create_photo_tags() -> None:
    create_table(
        "photo_tags",
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.String(length=50), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["photo_id"], ["photos.id"], name=op.f("fk_photo_tags_photo_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("photo_id", "tag", name=op.f("pk_photo_tags")),
    )
    create_index("ix_photo_tags_owner_tag", "photo_tags", ["owner_id", "tag", "photo_id"])


def _create_idempotency_keys() -> None:
    create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_idempotency_keys_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "key", name=op.f("pk_idempotency_keys")),
    )
    create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    create_index("ix_idempotency_keys_photo_id", "idempotency_keys", ["photo_id"])
