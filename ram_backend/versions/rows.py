"""The tables of this room."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.base import Base, BigId, UtcDateTime
from ram_backend.projects.rows import OfProject


class VersionRow(OfProject, Base):
    """One version of a project, accepted or not.

    `quarantined` is why its directory can't be served; `removed` says that it was removed on purpose.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created", "number"),)

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    number: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Text)
    bundle_digest: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    lineage: Mapped[dict[str, Any]] = mapped_column(JSON)
    verdict: Mapped[dict[str, Any]] = mapped_column(JSON)
    quarantined: Mapped[str | None] = mapped_column(Text)
    removed: Mapped[bool] = mapped_column(Boolean)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ServedRow(OfProject, Base):
    """What a project is served: a version's name, or NULL for the bundle's base; projects without a row have neither.

    `change` is the backend's counter (see `projects.rows`) at the time when the row was last written.
    """

    __tablename__ = "served"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    version: Mapped[str | None] = mapped_column(Text)
    pinned: Mapped[bool] = mapped_column(Boolean)
    change: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
