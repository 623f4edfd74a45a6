"""Renditions, what is shown before them, and places in a table of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.db.base import UtcDateTime
from app.db.tables import add_columns, create_table, drop_columns, drop_table, has_column

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DESCRIPTION = ("thumbhash", "dominant_color", "processing_state", "processing_error")


def upgrade() -> None:
    _create_photo_places()
    _create_photo_renditions()
    _move_places_out()
    add_columns(
        "photos",
        sa.Column("thumbhash", sa.String(length=36), nullable=True),
        sa.Column("dominant_color", sa.String(length=7), nullable=True),
        sa.Column("processing_state", sa.String(length=10), nullable=False, server_default="waiting"),
        sa.Column("processing_error", sa.String(length=40), nullable=True),
    )


def downgrade() -> None:
    drop_columns("photos", *_DESCRIPTION)
    _move_places_back()
    drop_table("photo_renditions")
    drop_table("photo_places")


def _create_photo_places() -> None:
    create_table(
        "photo_places",
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("latitude", sa.Double(), nullable=False),
        sa.Column("longitude", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["photo_id"], ["photos.id"], name=op.f("fk_photo_places_photo_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("photo_id", name=op.f("pk_photo_places")),
    )


def _create_photo_renditions() -> None:
    create_table(
        "photo_renditions",
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("preset", sa.String(length=20), nullable=False),
        sa.Column("format", sa.String(length=10), nullable=False),
        sa.Column("version", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("object_key", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["photo_id"], ["photos.id"], name=op.f("fk_photo_renditions_photo_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("photo_id", "preset", "format", "version", name=op.f("pk_photo_renditions")),
        sa.UniqueConstraint("object_key", name=op.f("uq_photo_renditions_object_key")),
    )


def _move_places_out() -> None:
    if has_column("photos", "latitude") and has_column("photos", "longitude"):
        op.execute(
            "INSERT INTO photo_places (photo_id, latitude, longitude) "
            "SELECT id, latitude, longitude FROM photos WHERE latitude IS NOT NULL AND longitude IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM photo_places WHERE photo_places.photo_id = photos.id)"
        )
    drop_columns("photos", "latitude", "longitude")


def _move_places_back() -> None:
    add_columns(
        "photos",
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
    )
    if sa.inspect(op.get_bind()).has_table("photo_places"):
        place = "(SELECT {0} FROM photo_places WHERE photo_places.photo_id = photos.id)"
        op.execute(
            f"UPDATE photos SET latitude = {place.format('latitude')}, longitude = {place.format('longitude')} "  # noqa: S608  # no value of anybody's is in it
            "WHERE EXISTS (SELECT 1 FROM photo_places WHERE photo_places.photo_id = photos.id)"
        )
