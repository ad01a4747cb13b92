"""ORM models and repository of projects, read by a change counter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CheckConstraint, ColumnElement, Index, Integer, UniqueConstraint, and_, exists, false, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from ram_backend.database.engine import Base, Database, RowId
from ram_backend.errors import ProjectNotFound
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions, parse_options
from ram_backend.projects.project import Project, Setup, TrustedHost


class OfProject:
    """The columns of a `ProjectKey`."""

    __tablename__: Any
    instance: Mapped[str]
    project_id: Mapped[int]
    created: Mapped[int]

    @property
    def key(self) -> ProjectKey:
        """Which project."""
        return ProjectKey(self.instance, self.project_id, self.created)


def of_project(table: type[OfProject], key: ProjectKey, *, unnamed: bool = False) -> ColumnElement[bool]:
    """Condition that a row is of a project; `unnamed`: also from before `/setup`."""
    instances = (key.instance, "") if unnamed else (key.instance,)
    return and_(table.project_id == key.id, table.created == key.created, table.instance.in_(instances))


def key_columns(key: ProjectKey) -> dict[str, Any]:
    """The columns that name a project."""
    return {"instance": key.instance, "project_id": key.id, "created": key.created}


class ProjectRow(OfProject, Base):
    """One `Project`; `change` is the backend's counter at the last write."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[RowId]
    label_config: Mapped[str]
    access_token: Mapped[str | None]
    extra_params: Mapped[dict[str, Any]]
    extra_params_error: Mapped[str | None]
    admin_options: Mapped[dict[str, Any]] = mapped_column("set_options")
    revision: Mapped[int]
    change: Mapped[int]
    first_seen_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class BackendRow(Base):
    """The only row of its table; `change` grows with every write."""

    __tablename__ = "backend"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    change: Mapped[int]
    pinned_host: Mapped[str | None]
    pinned_by_command: Mapped[bool] = mapped_column(server_default=false())
    pinned_token: Mapped[str | None]

    @property
    def trusted_host(self) -> TrustedHost | None:
        """The pinned Label Studio."""
        host = self.pinned_host
        return None if host is None else TrustedHost(host, self.pinned_by_command, self.pinned_token)


_NAMES = ("instance", "project_id", "created")
_KEY = (ProjectRow.instance, ProjectRow.project_id, ProjectRow.created)


@dataclass(frozen=True)
class ProjectChanges:
    """The counter, the pinned Label Studio, and the projects written since an earlier read.

    `keys` are all that there are; None: the same as then.
    """

    change: int
    trusted_host: TrustedHost | None
    projects: tuple[Project, ...]
    keys: frozenset[ProjectKey] | None = None


class ProjectTable:
    """Project rows. Writers of all processes queue: each locks the row of the counter.

    DatabaseUnavailable: nothing was read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def changes(self, since: int = -1) -> ProjectChanges:
        """The projects written after the counter was `since`; all where it is lower (restored)."""
        with self._database.reading() as session:
            backend = session.get_one(BackendRow, 1)
            if backend.change == since:
                return ProjectChanges(since, backend.trusted_host, ())
            since = since if since < backend.change else -1
            rows = session.scalars(select(ProjectRow).where(ProjectRow.change > since).order_by(ProjectRow.change))
            keys = frozenset(ProjectKey(*row) for row in session.execute(select(*_KEY)))
            return ProjectChanges(backend.change, backend.trusted_host, tuple(_project(row) for row in rows), keys)

    def keys(self) -> list[ProjectKey]:
        """The keys of all projects."""
        with self._database.reading() as session:
            return [ProjectKey(*row) for row in session.execute(select(*_KEY))]

    def unused(self) -> frozenset[ProjectKey]:
        """The projects that nothing but `/setup` has left a trace of."""
        with self._database.reading() as session:
            rows = session.scalars(select(ProjectRow).where(*_without_traces()))
            return frozenset(row.key for row in rows if not row.admin_options)

    def remove(self, key: ProjectKey) -> bool:
        """Removes a project that only `/setup` has named; returns whether it is gone."""
        with self._database.writing() as session:
            backend, same = locked_counter(session), of_project(ProjectRow, key)
            row = session.scalars(select(ProjectRow).where(same, *_without_traces())).one_or_none()
            if row is None or row.admin_options:
                return not session.scalar(select(exists().where(same)))
            session.delete(row)
            backend.change += 1
            return True

    def apply(self, setup: Setup) -> Project:
        """Writes what a `/setup` changes."""
        return self._change(setup.key, setup.applied_to)

    def edit_options(self, key: ProjectKey, edit: Callable[[ProjectOptions], ProjectOptions]) -> Project:
        """Replaces the options of `project set` by `edit` of them.

        Raises:
            ProjectNotFound: there is no such project.
        """

        def edited(project: Project | None) -> Project:
            if project is None:
                raise ProjectNotFound(f"There is no project {key} any more; see `ram-backend project list`.")
            return project.changed(admin_options=edit(project.admin_options))

        return self._change(key, edited)

    def pin_host(self, host: str, *, token: str | None = None, by_command: bool = True) -> TrustedHost:
        """Pins the address of a Label Studio; returns the pin now.

        Without `token`, an earlier one for the same host stays. A pin that is
        not by command replaces no earlier one.
        """
        with self._database.writing() as session:
            backend = locked_counter(session)
            before = backend.trusted_host
            if before is not None and not by_command:
                return before
            earlier = before.token if before is not None and before.by_command and before.host == host else None
            trusted_host = TrustedHost(host, by_command, token or earlier)
            if trusted_host != before:
                backend.pinned_host, backend.pinned_by_command = host, by_command
                backend.pinned_token = trusted_host.token
                backend.change += 1
            return trusted_host

    def _change(self, key: ProjectKey, change: Callable[[Project | None], Project]) -> Project:
        """Replaces a project by `change` of it, where that differs."""
        with self._database.writing() as session:
            backend = locked_counter(session)
            row = session.scalars(select(ProjectRow).where(of_project(ProjectRow, key))).one_or_none()
            before = None if row is None else _project(row)
            after = change(before)
            if after == before:
                return after
            now = datetime.now(UTC)
            if row is None:
                row = ProjectRow(**key_columns(key), first_seen_at=now)
                session.add(row)
            backend.change += 1
            row.label_config = after.label_config
            row.access_token = after.access_token
            row.extra_params = after.extra_params.to_json()
            row.extra_params_error = after.extra_params_error
            row.admin_options = after.admin_options.to_json()
            row.revision = after.revision
            row.change = backend.change
            row.updated_at = now
            return replace(after, updated_at=now)


def _without_traces() -> list[ColumnElement[bool]]:
    """Conditions that no other table has rows of a project."""

    def same(table: type[OfProject]) -> list[ColumnElement[bool]]:
        return [getattr(table, name) == getattr(ProjectRow, name) for name in _NAMES]

    return [~exists(select(1).where(*same(each))) for each in OfProject.__subclasses__() if each is not ProjectRow]


def locked_counter(session: Session) -> BackendRow:
    """The counter's row, locked until the transaction ends."""
    return session.get_one(BackendRow, 1, with_for_update=True, populate_existing=True)


def _project(row: ProjectRow) -> Project:
    return Project(
        key=row.key,
        label_config=row.label_config,
        access_token=row.access_token,
        extra_params=parse_options(row.extra_params, source="Stored extra params"),
        extra_params_error=row.extra_params_error,
        admin_options=parse_options(row.admin_options, source="Stored options"),
        revision=row.revision,
        updated_at=row.updated_at,
    )
