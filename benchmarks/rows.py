"""A million photos of one owner, written straight into PostgreSQL, for lists at any depth."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

_INSERT = """
INSERT INTO photos (
    id, owner_id, state, version, object_key, sha256, size_bytes, content_type, dedup_key, width, height, frames,
    orientation, camera, title, description, tags, favorite, original_filename, taken_at, timeline_at, created_at,
    updated_at
)
SELECT
    md5('id' || n)::uuid, :owner_id, 'ready', 1, 'bench/' || n, repeat(md5(n::text), 2), 200000 + n % 1000,
    'image/jpeg', 'bench' || n, 4000, 3000, 1, 1, 'Acme Phone 7', 'Photo ' || n, NULL, '["bench","holiday"]',
    n % 10 = 0, 'IMG_' || n || '.jpg', moment, moment, moment, moment
FROM (
    SELECT n, timestamptz '2020-01-01 00:00:00+00' + n * interval '60 seconds' AS moment
    FROM generate_series(1, :count) AS n
) AS numbers
"""


def write_photos(connection: Connection, owner_id: UUID, count: int) -> None:
    """Write so many ready photos, a minute apart, and let the database count them."""
    connection.execute(text(_INSERT), {"owner_id": owner_id, "count": count})
    connection.execute(text("ANALYZE photos"))
