"""Jobs say which HTTP request asked for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Adds the column; of jobs that are there nobody knows."""
    op.add_column("jobs", sa.Column("request", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drops the column."""
    op.drop_column("jobs", "request")
