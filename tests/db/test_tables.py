"""How migrations change tables: what is there is passed over where a migration can die half way, and only there."""

from __future__ import annotations

from io import StringIO

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer

from app.db import tables
from app.db.mariadb import COLLATION


def written_for(dialect: str) -> list[str]:
    """Return the statements that make a table with an index, change it and drop it, one line each."""
    written = StringIO()
    context = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        tables.create_table("photos", Column("id", Integer))
        tables.create_index("ix_photos_id", "photos", ["id"])
        tables.add_columns("photos", Column("width", Integer), Column("height", Integer))
        tables.drop_columns("photos", "width", "height")
        tables.drop_table("photos")
    return [" ".join(statement.split()) for statement in written.getvalue().split(";") if statement.strip()]


def test_on_mariadb_what_a_dead_migration_has_made_is_passed_over() -> None:
    table, index, *changes, drop = written_for("mysql")

    assert table.startswith("CREATE TABLE IF NOT EXISTS photos")
    assert table.endswith(f"ENGINE=InnoDB CHARSET=utf8mb4 COLLATE {COLLATION}")
    assert index == "CREATE INDEX IF NOT EXISTS ix_photos_id ON photos (id)"
    assert changes == [
        "ALTER TABLE photos ADD COLUMN IF NOT EXISTS width INTEGER",
        "ALTER TABLE photos ADD COLUMN IF NOT EXISTS height INTEGER",
        "ALTER TABLE photos DROP COLUMN IF EXISTS width",
        "ALTER TABLE photos DROP COLUMN IF EXISTS height",
    ]
    assert drop == "DROP TABLE IF EXISTS photos"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_elsewhere_what_is_there_already_is_an_error(dialect: str) -> None:
    assert not any("EXISTS" in statement for statement in written_for(dialect))
