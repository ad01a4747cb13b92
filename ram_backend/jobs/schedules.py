"""Cron schedules of jobs, in local time: a row per project and kind.

In local time each period comes once: one that summer time leaves out is due an
hour later. However many periods were missed, one job is requested.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter
from sqlalchemy import Index, Select, Text, UniqueConstraint, select
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.engine import Base, Database, RowId
from ram_backend.errors import InputError
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable, database_now
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import OfProject, key_columns, of_project
from ram_backend.versions.table import VersionTable

ScheduleKind = Literal["train", "reconcile", "refresh"]
KINDS: tuple[ScheduleKind, ...] = get_args(ScheduleKind)


class Schedule(OfProject, Base):
    """When a project's jobs of one kind are requested.

    Attributes:
        cron: five fields: minute, hour, day of month, month, day of week.
        zone: IANA time zone of these.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        UniqueConstraint("instance", "project_id", "created", "kind", name="uq_schedules_identity"),
        Index(None, "due_at"),
    )

    row_id: Mapped[RowId]
    kind: Mapped[ScheduleKind] = mapped_column(Text)
    cron: Mapped[str]
    zone: Mapped[str]
    due_at: Mapped[datetime]

    @property
    def local_due(self) -> str:
        """The next time, in its zone."""
        return f"{self.due_at.astimezone(ZoneInfo(self.zone)):%Y-%m-%d %H:%M %Z}"


class ScheduleTable:
    """Schedules of all projects; `now` is by default the database's time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = JobTable(database)
        self._versions = VersionTable(database)

    def set(self, key: ProjectKey, kind: str, cron: str, zone: str = "UTC", *, now: datetime | None = None) -> Schedule:
        """Writes the schedule of a kind in place of an earlier one.

        Raises:
            InputError: kind, cron text or zone can't be used.
        """
        if kind not in KINDS:
            raise InputError(f"{kind[:40]!r} can't be scheduled: give one of {', '.join(KINDS)}.")
        with self._database.writing() as session:
            due_at = next_due(cron, zone, now or database_now(session))
            row = session.scalars(_of_kind(key, kind)).one_or_none()
            if row is None:
                row = Schedule(**key_columns(key), kind=kind)
                session.add(row)
            row.cron, row.zone, row.due_at = " ".join(cron.split()), zone, due_at
            return row

    def remove(self, key: ProjectKey, kind: str) -> None:
        """Removes a schedule; InputError: there is none."""
        with self._database.writing() as session:
            row = session.scalars(_of_kind(key, kind)).one_or_none()
            if row is None:
                raise InputError(
                    f"Project {key} has no schedule of {kind[:40]!r}: `ram-backend schedule list {key.id}`."
                )
            session.delete(row)

    def schedules(self, key: ProjectKey) -> list[Schedule]:
        """A project's schedules, by kind."""
        with self._database.reading() as session:
            return list(session.scalars(select(Schedule).where(of_project(Schedule, key)).order_by(Schedule.kind)))

    def request_due(self, *, now: datetime | None = None) -> list[Job]:
        """Requests a job for each schedule that is due, once for all processes.

        A project that is pinned isn't trained.
        """
        with self._database.reading() as session:
            due = select(Schedule).where(Schedule.due_at <= (now or database_now(session)))
            if session.scalars(due).first() is None:
                return []
        jobs: list[Job] = []
        with self._database.writing() as session:
            for row in session.scalars(due.with_for_update(skip_locked=True)).all():
                row.due_at = next_due(row.cron, row.zone, now or database_now(session), row.due_at)
                if row.kind != "train" or not self._versions.served(row.key, session=session).pinned:
                    reason = f"scheduled: {row.cron}, {row.zone}"
                    jobs.append(self._jobs.request(row.key, row.kind, reason, within=session).job)
        return jobs


def _of_kind(key: ProjectKey, kind: str) -> Select[Schedule]:
    return select(Schedule).where(of_project(Schedule, key), Schedule.kind == kind)


def next_due(cron: str, zone: str, now: datetime, due: datetime | None = None) -> datetime:
    """The first time after `now`, in UTC, whose period comes after that of `due` (None: of any).

    Raises:
        InputError: cron text or zone can't be used.
    """
    try:
        local = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"{zone[:60]!r} is not a time zone: give one such as Europe/Berlin, or UTC.") from None
    start = max(each.astimezone(local).replace(tzinfo=None) for each in (now, due or now))
    try:
        if len(cron.split()) != 5:
            raise CroniterError
        times = croniter(cron, start)
        while True:
            found = cast(datetime, times.get_next(datetime)).replace(tzinfo=local).astimezone(UTC)
            if found > now:
                return found
    except (CroniterError, OverflowError):
        expected = (
            'minute, hour, day of month, month, day of week, such as "30 3 * * 1-5" for 3:30 from Monday to Friday'
        )
        raise InputError(f"{cron[:60]!r} names no time: give {expected}.") from None
