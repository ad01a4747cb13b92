"""Versions of projects, and which one of each is served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.base import BigId, UtcDateTime

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Makes both tables."""
    op.create_table(
        "versions",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("lineage", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("quarantined", sa.Text(), nullable=True),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_versions")),
        sa.UniqueConstraint(
            "instance", "project_id", "created", "number", name=op.f("uq_versions_instance_project_id_created_number")
        ),
    )
    op.create_table(
        "served",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_served")),
        sa.UniqueConstraint("instance", "project_id", "created", name=op.f("uq_served_instance_project_id_created")),
    )
    op.create_index(op.f("ix_served_change"), "served", ["change"])


def downgrade() -> None:
    """Drops both tables."""
    op.drop_index(op.f("ix_served_change"), table_name="served")
    op.drop_table("served")
    op.drop_table("versions")
