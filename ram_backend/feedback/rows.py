"""Tables of the ledger: events, label spaces, served predictions, image identities."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, ColumnElement, Index, Text, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from ram_backend.database.base import Base, BigId, UtcDateTime
from ram_backend.projects import table as projects_table
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import OfProject


def _identity(table: str, *columns: str) -> UniqueConstraint:
    return UniqueConstraint("instance", "project_id", "created", *columns, name=f"uq_{table}_identity")


class FeedbackEventRow(OfProject, Base):
    """One `FeedbackEvent`, never changed and never deleted; `offered` is the digest of its label space, or ""."""

    __tablename__ = "feedback_events"
    __table_args__ = (
        _identity("feedback_events", "kind", "annotation_id", "task_id", "updated_us", "content"),
        Index("ix_feedback_events_order", "project_id", "created", "event_id"),
    )

    event_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(Text)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    task_id: Mapped[int] = mapped_column(BigInteger)
    updated_us: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[str] = mapped_column(Text)
    usable: Mapped[bool] = mapped_column(Boolean)
    statement: Mapped[str] = mapped_column(Text)
    task_data: Mapped[str | None] = mapped_column(Text)
    offered: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)


class LabelSpaceRow(OfProject, Base):
    """A label space, by the digest that events name; `tags` is JSON."""

    __tablename__ = "offered_tags"
    __table_args__ = (_identity("offered_tags", "digest"),)

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    digest: Mapped[str] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ShownRow(OfProject, Base):
    """A served prediction for a task by one model version; `choices` and `images` are JSON.

    `prediction_id` is Label Studio's number, once reconciliation has found it.
    """

    __tablename__ = "shown"
    __table_args__ = (_identity("shown", "task_id", "model_version"),)

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    task_id: Mapped[int] = mapped_column(BigInteger)
    model_version: Mapped[str] = mapped_column(Text)
    version: Mapped[str | None] = mapped_column(Text)
    prediction_id: Mapped[int | None] = mapped_column(BigInteger)
    shown_at: Mapped[datetime] = mapped_column(UtcDateTime)
    source: Mapped[str] = mapped_column(Text)
    choices: Mapped[str] = mapped_column(Text)
    images: Mapped[str] = mapped_column(Text)


class TaskImageRow(OfProject, Base):
    """Identity of an image of a task when it was last seen; `reference` is the sha256 of the task's reference."""

    __tablename__ = "task_images"
    __table_args__ = (_identity("task_images", "task_id", "reference"),)

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    task_id: Mapped[int] = mapped_column(BigInteger)
    reference: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    phash: Mapped[str] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


def of_project(table: type[OfProject], key: ProjectKey) -> ColumnElement[bool]:
    """Condition for a project's rows, including those from before its first `/setup`."""
    return projects_table.of_project(table, key, unnamed=True)


def insert_into(session: Session, table: type[Base]) -> Any:
    """The dialect's INSERT with ON CONFLICT, for SQLite or PostgreSQL."""
    dialect = session.get_bind().dialect.name
    return (postgresql if dialect == "postgresql" else sqlite).insert(table.__table__)
