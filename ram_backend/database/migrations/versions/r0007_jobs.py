"""Jobs: what was sent to which queue is noted in that queue's server; the ETA is dropped."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision: str | None = "0006"


def upgrade() -> None:
    """Drops the columns."""
    for column in ("queued_at", "queued_as", "eta_s"):
        op.drop_column("jobs", column)
