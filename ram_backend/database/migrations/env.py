"""Run by alembic: applies the steps on the connection, and in the transaction, that `migrate.py` hands over."""

from __future__ import annotations

from alembic import context

from ram_backend.database.engine import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
