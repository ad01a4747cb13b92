"""Jobs have options, and keep notes for their next attempt: pre-labelling needs both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Adds the columns; jobs that are there have neither."""
    op.add_column("jobs", sa.Column("options", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("kept", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drops the columns."""
    op.drop_column("jobs", "kept")
    op.drop_column("jobs", "options")
