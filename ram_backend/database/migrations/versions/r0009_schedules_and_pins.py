"""Second revision: jobs without queue columns and with shares, the pin's origin and token, schedules.

Pins made before don't say whether a command or a `/setup` request named the
host, so they are dropped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.engine import BigId, UtcDateTime

revision = "0009"
down_revision = "0006"


def upgrade() -> None:
    """Drops and adds columns, drops the pin, makes the table of schedules."""
    for column in ("queued_at", "queued_as", "eta_s"):
        op.drop_column("jobs", column)
    op.add_column("jobs", sa.Column("share", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("uq_jobs_open", "jobs")
    is_open = sa.text("state IN ('requested', 'running')")
    shared = ("kind", "instance", "project_id", "created", "share")
    op.create_index("uq_jobs_open", "jobs", shared, unique=True, sqlite_where=is_open, postgresql_where=is_open)
    op.add_column("backend", sa.Column("pinned_by_command", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("backend", sa.Column("pinned_token", sa.Text(), nullable=True))
    op.execute("UPDATE backend SET pinned_host = NULL, change = change + 1 WHERE pinned_host IS NOT NULL")
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
