"""Schedules: when jobs of a project are requested."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.engine import BigId, UtcDateTime

revision = "0009"
down_revision: str | None = "0008"


def upgrade() -> None:
    """Makes the table."""
    names = ("instance", "project_id", "created", "kind")
    op.create_table(
        "schedules",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "cron", "zone")),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_schedules")),
        sa.UniqueConstraint(*names, name=op.f("uq_schedules_identity")),
    )
    op.create_index(op.f("ix_schedules_due_at"), "schedules", ["due_at"])
