"""How migrations make tables: the same on every database, and on MariaDB so that one that died can go on.

There a statement of the schema ends the transaction it is in: what a migration has made before it died stays, and its
revision is not noted. Run again, it passes over what is there. Elsewhere a table that is there already is somebody
else's, and an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import Column, inspect
from sqlalchemy.schema import SchemaItem

from app.db.mariadb import COLLATION

_FORM = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": COLLATION}


def create_table(name: str, *items: SchemaItem) -> None:
    """Create a table."""
    op.create_table(name, *items, if_not_exists=_cannot_roll_back(), **_FORM)


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Create an index."""
    op.create_index(name, table, columns, if_not_exists=_cannot_roll_back(), **options)


def drop_table(name: str) -> None:
    """Drop a table with its indexes."""
    op.drop_table(name, if_exists=_cannot_roll_back())


def add_columns(table: str, *columns: Column[Any]) -> None:
    """Add columns to a table; one that may not be null needs a default of the server for the rows that are there."""
    for column in columns:
        op.add_column(table, column, if_not_exists=_cannot_roll_back())


def drop_columns(table: str, *names: str) -> None:
    """Drop columns from a table in its place: SQLite's copy of a table would empty those that refer to it."""
    for name in names:
        op.drop_column(table, name, if_exists=_cannot_roll_back())


def has_column(table: str, name: str) -> bool:
    """Tell whether a table has a column: where a schema cannot be rolled back it may be gone, or there, already."""
    return any(column["name"] == name for column in inspect(op.get_bind()).get_columns(table))


def _cannot_roll_back() -> bool | None:
    return True if op.get_context().dialect.name == "mysql" else None
