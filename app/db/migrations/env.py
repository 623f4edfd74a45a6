"""Alembic's entry: runs the migrations on the connection that :mod:`app.db.migrate` hands over."""

from __future__ import annotations

from alembic import context

from app.db.base import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a column in place; batch mode copies the table.
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
