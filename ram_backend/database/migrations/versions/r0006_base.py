"""Base revision: all tables as they were before the first public version; earlier revisions are not upgraded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from ram_backend.database.engine import BigId, UtcDateTime

revision = "0006"
down_revision = None

_PROJECT = ("instance", "project_id", "created")
_OPEN = sa.text("state IN ('requested', 'running')")


def upgrade() -> None:
    """Makes the tables."""
    _projects()
    _feedback()
    _versions()
    _jobs()


def _columns(kind: TypeEngine[Any], *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable) for name in names]


def _of_project() -> list[sa.Column[Any]]:
    return [*_columns(sa.Text(), "instance"), *_columns(sa.BigInteger(), "project_id", "created")]


def _table(name: str, key: str, columns: Iterable[sa.Column[Any]], *unique: str, unique_name: str) -> None:
    """Makes a table with a number of its own as primary key, whose rows belong to a project."""
    op.create_table(
        name,
        sa.Column(key, BigId, autoincrement=True, nullable=False),
        *_of_project(),
        *columns,
        sa.PrimaryKeyConstraint(key, name=op.f(f"pk_{name}")),
        sa.UniqueConstraint(*_PROJECT, *unique, name=op.f(unique_name)),
    )


def _projects() -> None:
    """Projects, and the one row about the backend itself."""
    columns = [
        *_columns(sa.Text(), "label_config"),
        *_columns(sa.Text(), "access_token", "extra_params_error", nullable=True),
        *_columns(sa.JSON(), "extra_params", "set_options"),
        *_columns(sa.BigInteger(), "revision", "change"),
        *_columns(UtcDateTime(), "first_seen_at", "updated_at"),
    ]
    _table("projects", "row_id", columns, unique_name="uq_projects_instance_project_id_created")
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
    columns = [
        *_columns(sa.Text(), "kind", "content", "statement", "offered", "source"),
        *_columns(sa.BigInteger(), "annotation_id", "task_id", "updated_us"),
        *_columns(sa.Boolean(), "usable"),
        *_columns(sa.Text(), "task_data", nullable=True),
        *_columns(UtcDateTime(), "received_at"),
    ]
    identity = ("kind", "annotation_id", "task_id", "updated_us", "content")
    _table("feedback_events", "event_id", columns, *identity, unique_name="uq_feedback_events_identity")
    op.create_index(op.f("ix_feedback_events_order"), "feedback_events", ["project_id", "created", "event_id"])
    columns = [*_columns(sa.Text(), "digest", "tags"), *_columns(UtcDateTime(), "first_seen_at")]
    _table("offered_tags", "row_id", columns, "digest", unique_name="uq_offered_tags_identity")
    columns = [
        *_columns(sa.BigInteger(), "task_id"),
        *_columns(sa.Text(), "model_version", "source", "choices", "images"),
        *_columns(sa.Text(), "version", nullable=True),
        *_columns(sa.BigInteger(), "prediction_id", nullable=True),
        *_columns(UtcDateTime(), "shown_at"),
    ]
    _table("shown", "row_id", columns, "task_id", "model_version", unique_name="uq_shown_identity")
    columns = [
        *_columns(sa.BigInteger(), "task_id"),
        *_columns(sa.Text(), "reference", "sha256", "phash"),
        *_columns(UtcDateTime(), "seen_at"),
    ]
    _table("task_images", "row_id", columns, "task_id", "reference", unique_name="uq_task_images_identity")


def _versions() -> None:
    """Versions of projects, and which one of each is served."""
    columns = [
        *_columns(sa.BigInteger(), "number"),
        *_columns(sa.Text(), "digest", "bundle_digest", "outcome"),
        *_columns(sa.JSON(), "lineage", "verdict"),
        *_columns(sa.Text(), "quarantined", nullable=True),
        *_columns(sa.Boolean(), "removed"),
        *_columns(UtcDateTime(), "recorded_at"),
    ]
    _table("versions", "row_id", columns, "number", unique_name="uq_versions_instance_project_id_created_number")
    columns = [
        *_columns(sa.Text(), "version", nullable=True),
        *_columns(sa.Boolean(), "pinned"),
        *_columns(sa.BigInteger(), "change"),
        *_columns(UtcDateTime(), "updated_at"),
    ]
    _table("served", "row_id", columns, unique_name="uq_served_instance_project_id_created")
    op.create_index(op.f("ix_served_change"), "served", ["change"])


def _jobs() -> None:
    """Jobs; a project has one open job of a kind at most."""
    op.create_table(
        "jobs",
        *_columns(sa.Text(), "job_id", "kind", "state", "reason", "message"),
        *_of_project(),
        *_columns(sa.Text(), "again", "queued_as", "worker", "stage", "request", nullable=True),
        *_columns(UtcDateTime(), "requested_at", "not_before"),
        *_columns(UtcDateTime(), "queued_at", "started_at", "heartbeat_at", "finished_at", nullable=True),
        *_columns(sa.BigInteger(), "fence"),
        *_columns(sa.Integer(), "attempt", "step", "steps"),
        *_columns(sa.Float(), "eta_s", nullable=True),
        *_columns(sa.BigInteger(), "last_event", nullable=True),
        *_columns(sa.JSON(), "result", "options", "kept", nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name=op.f("ck_jobs_known_state")),
    )
    unique: dict[str, Any] = {"unique": True, "sqlite_where": _OPEN, "postgresql_where": _OPEN}
    op.create_index("uq_jobs_open", "jobs", ["kind", *_PROJECT], **unique)
    op.create_index("ix_jobs_project", "jobs", ["project_id", "created", "kind", "requested_at"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
