"""ORM models of projects, and the columns by which rows of all rooms belong to a project."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    and_,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.base import Base, BigId, UtcDateTime
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Pin


class OfProject:
    """The columns of a `ProjectKey`."""

    instance: Mapped[str] = mapped_column(Text)
    project_id: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[int] = mapped_column(BigInteger)

    @property
    def key(self) -> ProjectKey:
        """Which project."""
        return ProjectKey(self.instance, self.project_id, self.created)


def of_project(table: type[OfProject], key: ProjectKey, *, unnamed: bool = False) -> ColumnElement[bool]:
    """Condition that a row is of a project; `unnamed`: also if no `/setup` had named its Label Studio yet."""
    instances = (key.instance, "") if unnamed else (key.instance,)
    return and_(table.project_id == key.id, table.created == key.created, table.instance.in_(instances))


def key_columns(key: ProjectKey) -> dict[str, Any]:
    """The columns that name a project."""
    return {"instance": key.instance, "project_id": key.id, "created": key.created}


class ProjectRow(OfProject, Base):
    """One `Project`; `change` is the backend's counter at the last write."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
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
    """The only row of its table; `change` grows with every write, so that other processes notice it."""

    __tablename__ = "backend"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    change: Mapped[int] = mapped_column(BigInteger)
    pinned_host: Mapped[str | None] = mapped_column(Text)
    pinned_by_command: Mapped[bool] = mapped_column(Boolean, server_default=false())
    pinned_token: Mapped[str | None] = mapped_column(Text)

    @property
    def pin(self) -> Pin | None:
        """The pinned Label Studio."""
        host = self.pinned_host
        return None if host is None else Pin(host, self.pinned_by_command, self.pinned_token)
