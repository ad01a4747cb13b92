"""The tables of this room."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, Integer, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database import Base, BigId, UtcDateTime


class ProjectRow(Base):
    """One project, as `Project` says; `change` is the backend's counter at the time when the row was last written."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    instance: Mapped[str] = mapped_column(Text)
    project_id: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[int] = mapped_column(BigInteger)
    label_config: Mapped[str] = mapped_column(Text)
    access_token: Mapped[str | None] = mapped_column(Text)
    extra_params: Mapped[dict[str, Any]] = mapped_column(JSON)
    extra_params_error: Mapped[str | None] = mapped_column(Text)
    set_options: Mapped[dict[str, Any]] = mapped_column(JSON)
    revision: Mapped[int] = mapped_column(BigInteger)
    change: Mapped[int] = mapped_column(BigInteger)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class BackendRow(Base):
    """The only row of its table. `change` grows with every write of this room: what other processes look at."""

    __tablename__ = "backend"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    change: Mapped[int] = mapped_column(BigInteger)
    pinned_host: Mapped[str | None] = mapped_column(Text)
