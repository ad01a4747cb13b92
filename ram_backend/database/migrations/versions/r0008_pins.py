"""Pins: who named the pinned Label Studio, and with which token.

Pins made before don't say whether a command or a `/setup` request named the
host, so they are dropped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"


def upgrade() -> None:
    """Adds the columns, and drops the pin."""
    op.add_column("backend", sa.Column("pinned_by_command", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("backend", sa.Column("pinned_token", sa.Text(), nullable=True))
    op.execute("UPDATE backend SET pinned_host = NULL, change = change + 1 WHERE pinned_host IS NOT NULL")
