"""What people said and were shown: the ledger's events, the tags on offer, predictions, and images of tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.base import BigId, UtcDateTime

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def _of_project() -> list[sa.Column[object]]:
    return [
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
    ]


def upgrade() -> None:
    """Makes the four tables."""
    op.create_table(
        "feedback_events",
        sa.Column("event_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("usable", sa.Boolean(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("task_data", sa.Text(), nullable=True),
        sa.Column("offered", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_feedback_events")),
        sa.UniqueConstraint(
            "instance",
            "project_id",
            "created",
            "kind",
            "annotation_id",
            "task_id",
            "updated_us",
            "content",
            name=op.f("uq_feedback_events_identity"),
        ),
    )
    op.create_index(op.f("ix_feedback_events_order"), "feedback_events", ["project_id", "created", "event_id"])
    op.create_table(
        "offered_tags",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("first_seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_offered_tags")),
        sa.UniqueConstraint("instance", "project_id", "created", "digest", name=op.f("uq_offered_tags_identity")),
    )
    op.create_table(
        "shown",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("prediction_id", sa.BigInteger(), nullable=True),
        sa.Column("shown_at", UtcDateTime(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("choices", sa.Text(), nullable=False),
        sa.Column("images", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_shown")),
        sa.UniqueConstraint(
            "instance", "project_id", "created", "task_id", "model_version", name=op.f("uq_shown_identity")
        ),
    )
    op.create_table(
        "task_images",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("phash", sa.Text(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_task_images")),
        sa.UniqueConstraint(
            "instance", "project_id", "created", "task_id", "reference", name=op.f("uq_task_images_identity")
        ),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("task_images")
    op.drop_table("shown")
    op.drop_table("offered_tags")
    op.drop_index(op.f("ix_feedback_events_order"), table_name="feedback_events")
    op.drop_table("feedback_events")
