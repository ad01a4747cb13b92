"""The table of this room."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Float, Index, Integer, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.base import Base, UtcDateTime
from ram_backend.projects.rows import OfProject

_OPEN = text("state IN ('requested', 'running')")


class JobRow(OfProject, Base):
    """One job, as `Job` says.

    Attributes:
        again: why it was asked for once more while it was running; None: it was not, or that was dealt with.
        not_before: it is not begun earlier: how long a job waits after an attempt that failed.
        queued_at, queued_as: when it was last put into the queue, and under which number there.
        options: what exactly is wanted, as the kind says; None: there is only one thing to want.
        kept: what an attempt left for the next one, as the kind says.
        request: id of the HTTP request that asked for it first; None: none did.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('requested', 'running', 'done', 'failed')", name="known_state"),
        Index(
            "uq_jobs_open",
            "kind",
            "instance",
            "project_id",
            "created",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
        Index("ix_jobs_project", "project_id", "created", "kind", "requested_at"),
        Index("ix_jobs_state", "state"),
    )

    job_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    again: Mapped[str | None] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    queued_as: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    fence: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str | None] = mapped_column(Text)
    stage: Mapped[str | None] = mapped_column(Text)
    step: Mapped[int] = mapped_column(Integer)
    steps: Mapped[int] = mapped_column(Integer)
    eta_s: Mapped[float | None] = mapped_column(Float)
    message: Mapped[str] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    last_event: Mapped[int | None] = mapped_column(BigInteger)
    options: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    kept: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    request: Mapped[str | None] = mapped_column(Text)
