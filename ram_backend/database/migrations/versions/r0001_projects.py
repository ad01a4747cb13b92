"""Projects, and the one row about the backend itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.base import BigId, UtcDateTime

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Makes both tables."""
    op.create_table(
        "projects",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("label_config", sa.Text(), nullable=False),
        sa.Column("access_token", sa.Text(), nullable=True),
        sa.Column("extra_params", sa.JSON(), nullable=False),
        sa.Column("extra_params_error", sa.Text(), nullable=True),
        sa.Column("set_options", sa.JSON(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_projects")),
        sa.UniqueConstraint("instance", "project_id", "created", name=op.f("uq_projects_instance_project_id_created")),
    )
    op.create_index(op.f("ix_projects_change"), "projects", ["change"])
    backend = op.create_table(
        "backend",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("pinned_host", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backend")),
        sa.CheckConstraint("id = 1", name=op.f("ck_backend_one_row")),
    )
    op.bulk_insert(backend, [{"id": 1, "change": 0, "pinned_host": None}])


def downgrade() -> None:
    """Drops both tables."""
    op.drop_table("backend")
    op.drop_index(op.f("ix_projects_change"), table_name="projects")
    op.drop_table("projects")
