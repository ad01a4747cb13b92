"""Base revision: all tables as they were before the first public version; earlier revisions are not upgraded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ram_backend.database.base import BigId, UtcDateTime

revision = "0006"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_OPEN = sa.text("state IN ('requested', 'running')")


def upgrade() -> None:
    """Makes the tables."""
    _projects()
    _feedback()
    _versions()
    _jobs()


def _of_project() -> list[sa.Column[object]]:
    return [
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
    ]


def _projects() -> None:
    """Projects, and the one row about the backend itself."""
    op.create_table(
        "projects",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
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


def _feedback() -> None:
    """The ledger's events, the tags on offer, what was shown, and images of tasks."""
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


def _versions() -> None:
    """Versions of projects, and which one of each is served."""
    op.create_table(
        "versions",
        sa.Column("row_id", BigId, autoincrement=True, nullable=False),
        *_of_project(),
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
        *_of_project(),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_served")),
        sa.UniqueConstraint("instance", "project_id", "created", name=op.f("uq_served_instance_project_id_created")),
    )
    op.create_index(op.f("ix_served_change"), "served", ["change"])


def _jobs() -> None:
    """Jobs; a project has one open job of a kind at most."""
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        *_of_project(),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("again", sa.Text(), nullable=True),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("queued_at", UtcDateTime(), nullable=True),
        sa.Column("queued_as", sa.Text(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("eta_s", sa.Float(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("last_event", sa.BigInteger(), nullable=True),
        sa.Column("options", sa.JSON(), nullable=True),
        sa.Column("kept", sa.JSON(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name=op.f("ck_jobs_known_state")),
    )
    op.create_index(
        "uq_jobs_open",
        "jobs",
        ["kind", "instance", "project_id", "created"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_index("ix_jobs_project", "jobs", ["project_id", "created", "kind", "requested_at"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
