"""How migrations make tables: the same on every database, and on MariaDB so that one that died can go on.

There a statement of the schema ends the transaction it is in: what a migration has made before it died stays, and its
revision is not noted. Run again, it passes over what is there. Elsewhere a table that is there already is somebody
else's, and an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic import op
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


def _cannot_roll_back() -> bool | None:
    return True if op.get_context().dialect.name == "mysql" else None
