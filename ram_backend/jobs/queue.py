"""Job queue in a table: request, claim, heartbeat, retry with backoff, finish.

Each change locks the job's row and is one transaction, or part of the caller's (`finish`). Every moment that is
compared is the database's: workers on several machines needn't agree about the time.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast, get_args

from sqlalchemy import and_, delete, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ram_backend.backoff import backoff
from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import OPEN, Job, JobResult, Kind, PrelabelOptions, State
from ram_backend.logs import request_id
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import key_columns, of_project
from ram_backend.settings import Settings

KEPT = 200
"""Finished jobs of one kind that are kept per project."""

BACKOFF_S = (1.0, 300.0)
"""How long a job waits after its first failed attempt, and at most."""


@dataclass(frozen=True)
class Requested:
    """The job that a request led to.

    Attributes:
        job: open now.
        is_new: False: it was there already, and covers this request too.
    """

    job: Job
    is_new: bool


class JobQueue:
    """All jobs. Everything here waits for the database.

    Args:
        database: migrated.
        attempts: how often a job is begun before it counts as failed.
        lease_s: a claim is good for this time after its last heartbeat.
    """

    def __init__(self, database: Database, *, attempts: int = 3, lease_s: float = 15.0) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._attempts = attempts
        self._lease_s = lease_s

    @classmethod
    def of(cls, settings: Settings, database: Database) -> JobQueue:
        """With the attempts and the lease of the settings."""
        return cls(database, attempts=settings.job_attempts, lease_s=settings.lease_seconds)

    def request(
        self,
        key: ProjectKey,
        kind: Kind,
        reason: str,
        options: PrelabelOptions | None = None,
        *,
        delay_s: float = 0.0,
    ) -> Requested:
        """Asks for a job. Of each kind a project has one open job at most, so asking five times gives one.

        Where it runs already, its end asks for another one. Where it waits after a failed attempt, it waits no longer.

        Args:
            key: which project.
            kind: what is to be done.
            reason: in a few words.
            options: what exactly is wanted, where the kind leaves a choice; an open job does that as well, then.
            delay_s: it begins no sooner; an open job doesn't wait longer for that.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        with suppress(IntegrityError), self._database.writing() as session:
            return _request(session, key, kind, reason, options, delay_s)
        with self._database.writing() as session:  # another process asked at that very moment (PostgreSQL)
            return _request(session, key, kind, reason, options, delay_s)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now; None: there is none of that number."""
        with self._database.reading() as session:
            return session.get(Job, job_id)

    def jobs(self, key: ProjectKey | None = None, *, kind: Kind | None = None, limit: int = 50) -> list[Job]:
        """Open jobs first, then the latest.

        Args:
            key: of that project; rows that no Label Studio was named for are its own, too. None: of all.
            kind: only of that kind.
            limit: most jobs.
        """
        question = select(Job).order_by(Job.state.in_(OPEN).desc(), Job.requested_at.desc(), Job.id)
        if key is not None:
            question = question.where(of_project(Job, key, unnamed=True))
        if kind is not None:
            question = question.where(Job.kind == kind)
        with self._database.reading() as session:
            return list(session.scalars(question.limit(limit)))

    def open_jobs(self) -> dict[tuple[str, str], int]:
        """How many jobs of all projects wait or run: every kind with every such state, also where there are none."""
        question = select(Job.kind, Job.state, func.count()).where(Job.state.in_(OPEN)).group_by(Job.kind, Job.state)
        none: dict[tuple[str, str], int] = {(kind, state): 0 for kind in get_args(Kind) for state in OPEN}
        with self._database.reading() as session:
            return {**none, **{(kind, state): count for kind, state, count in session.execute(question)}}

    def last_attempt(self, key: ProjectKey) -> int:
        """Number of the last event that an ended training of the project has seen; 0: there was none."""
        question = select(func.max(Job.last_event)).where(
            of_project(Job, key, unnamed=True), Job.kind == "train", Job.state.not_in(OPEN)
        )
        with self._database.reading() as session:
            return session.scalar(question) or 0

    def due(self, waited_s: float = 0.0) -> list[Job]:
        """Jobs that a worker may begin, and could begin `waited_s` ago; the oldest first."""
        with self._database.reading() as session:
            since = moment(session) - timedelta(seconds=waited_s)
            question = select(Job).where(Job.state == "requested", Job.not_before <= since)
            return list(session.scalars(question.order_by(Job.requested_at, Job.id)))

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Takes a job that is due: good until `lease_s` have gone by without heartbeat.

        Args:
            job_id: which job.
            worker: who takes it.

        Returns:
            The job with its new fencing number; None: it is not there, not due, taken already, or finished.
        """
        with self._database.writing() as session:
            now, job = moment(session), session.get(Job, job_id, with_for_update=True)
            if job is None or job.state != "requested" or job.not_before > now:
                return None
            job.state, job.worker, job.message, job.again = "running", worker, "", None
            job.fence, job.attempt = job.fence + 1, job.attempt + 1
            job.started_at = job.heartbeat_at = now
            return job

    def heartbeat(self, job: Job, stage: str | None = None, step: int = 0, steps: int = 0) -> bool:
        """Renews a lease, and writes how far the job is where a stage is named.

        Returns:
            False: the job has ended under this very claim; nothing was written.

        Raises:
            JobLost: another claim followed, or the lease was taken away.
        """
        with self._database.writing() as session:
            row = _claimed(session, job, may_have_ended=True)
            if row.state != "running":
                return False
            row.heartbeat_at = moment(session)
            if stage is not None:
                row.stage, row.step, row.steps = stage, step, steps
            return True

    def note_seen(self, job: Job, last_event: int) -> None:
        """Notes up to which event of the ledger a job has looked.

        Raises:
            JobLost: the claim is good no more.
        """
        with self._database.writing() as session:
            _claimed(session, job).last_event = last_event

    def checkpoint(self, job: Job, kept: Mapping[str, Any], *, progressed: bool = False) -> None:
        """Keeps something for the next attempt, durably.

        Args:
            job: as it was claimed.
            kept: JSON; "at", the database's time, is added to it.
            progressed: the attempt has got somewhere: it counts as the first one from now on.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            row, now = _claimed(session, job), moment(session)
            row.kept, row.heartbeat_at = {**kept, "at": now.isoformat()}, now
            if progressed:
                row.attempt = 1

    def release(self, job: Job, message: str, *, delay_s: float = 1.0) -> None:
        """Lets other jobs go first: this one waits for a worker again, as if this attempt had not been.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            row = _claimed(session, job)
            row.attempt -= 1
            _wait_again(session, row, message, delay_s)

    def finish(self, job: Job, result: JobResult, session: Session | None = None) -> None:
        """Ends a job well, whatever its verdict.

        Args:
            job: as it was claimed.
            result: of the job.
            session: of a transaction that may write, e.g. the one that publishes a version; None: a transaction alone.

        Raises:
            JobLost: the claim is good no more; nothing was written, and the transaction has to be rolled back.
        """
        with self._database.writing() if session is None else nullcontext(session) as own:
            row = _claimed(own, job)
            row.result = dict(result.result)
            if result.last_event is not None:
                row.last_event = result.last_event
            if result.refresh is not None:
                _request(own, job.key, "refresh", result.refresh)
            _end(own, row, "done", result.message)

    def fail(self, job: Job, message: str, *, retry: bool) -> bool:
        """Ends an attempt badly.

        Args:
            job: as it was claimed.
            message: what happened, in one line.
            retry: whether trying again may help: the job then waits a while, unless it was tried often enough.

        Returns:
            Whether it will be tried again.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            row = _claimed(session, job)
            pause_s = next(islice(backoff(*BACKOFF_S, factor=10), max(0, row.attempt - 1), None))
            return self._end_attempt(session, row, message, pause_s if retry else None)

    def expire(self, killed: tuple[str, str] | None = None) -> list[Job]:
        """Ends the attempts whose lease has run out; what their workers write from now on is refused.

        Args:
            killed: id of a job, and its worker whose process is known to have ended: that job only, at once.

        Returns:
            The jobs, as they are now: they wait for a worker again, or have failed where they were tried often enough.
        """
        with self._database.reading() as session:
            if killed is None:
                stale = Job.heartbeat_at < moment(session) - timedelta(seconds=self._lease_s)
                reason = f"The worker gave no sign of life for {self._lease_s:g} s"
            else:
                stale = and_(Job.id == killed[0], Job.worker == killed[1])
                reason = "The worker's process has ended before the job did"
            expired = select(Job).where(Job.state == "running", stale)
            if session.scalars(expired).first() is None:
                return []
        with self._database.writing() as session:
            rows = session.scalars(
                expired.with_for_update(skip_locked=True)
            ).all()  # locked: a heartbeat comes just now
            for row in rows:
                row.fence += 1
                message = f"{reason} (attempt {row.attempt} of {self._attempts})."
                self._end_attempt(session, row, message, 0.0)
            return list(rows)

    def _end_attempt(self, session: Session, row: Job, message: str, pause_s: float | None) -> bool:
        """Retries a job after a pause, or fails it: then a training counts as one that has seen all events."""
        if pause_s is not None and row.attempt < self._attempts:
            _wait_again(session, row, message, pause_s)
            return True
        if pause_s is not None and self._attempts > 1:
            message = f"Given up after {row.attempt} attempts. The last one: {message}"
        row.stage, row.step, row.steps = None, 0, 0
        if row.kind == "train" and row.last_event is None:
            row.last_event = self._ledger.last_event(row.key)
        _end(session, row, "failed", message)
        return False


def moment(session: Session) -> datetime:
    """What the database's clock says now, also within a transaction; UTC, to the millisecond at least."""
    if session.get_bind().dialect.name == "sqlite":
        now = session.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(now).replace(tzinfo=UTC)
    return cast(datetime, session.execute(select(func.clock_timestamp())).scalar_one()).astimezone(UTC)


def _request(
    session: Session,
    key: ProjectKey,
    kind: Kind,
    reason: str,
    options: PrelabelOptions | None = None,
    delay_s: float = 0.0,
) -> Requested:
    now = moment(session)
    begin = now + timedelta(seconds=delay_s)
    job = session.scalars(
        select(Job).where(of_project(Job, key), Job.kind == kind, Job.state.in_(OPEN)).with_for_update()
    ).one_or_none()
    if job is None:
        job = Job(id=uuid.uuid4().hex, kind=kind, reason=reason, **key_columns(key))
        job.requested_at, job.not_before, job.request = now, begin, request_id.get()
        job.options = None if options is None else options.to_json()
        session.add(job)
        return Requested(job, True)
    if options is not None:
        job.options = PrelabelOptions.of(job.options).also(options).to_json()
    if job.state == "running":
        job.again, job.not_before = reason, begin
    else:
        job.not_before = min(job.not_before, begin)
    return Requested(job, False)


def _claimed(session: Session, job: Job, *, may_have_ended: bool = False) -> Job:
    """The row of a job that runs under this very claim, locked until the transaction ends.

    Raises:
        JobLost: it has another fencing number by now, or has ended.
    """
    row = session.get(Job, job.id, with_for_update=True)
    if row is None or row.fence != job.fence or not (row.state == "running" or may_have_ended):
        raise JobLost(
            f"Job {job.id} of project {job.key} belongs to another worker by now: what this one did is not used."
        )
    return row


def _wait_again(session: Session, row: Job, message: str, delay_s: float) -> None:
    row.state, row.message, row.not_before = "requested", message, moment(session) + timedelta(seconds=delay_s)
    row.stage, row.step, row.steps = None, 0, 0


def _end(session: Session, row: Job, state: State, message: str) -> None:
    """Ends a job, and requests another one if `again` asks for that; removes the oldest ended jobs of its kind.

    The one that has seen the latest events stays: they count as tried.
    """
    row.state, row.message, row.finished_at = state, message, moment(session)
    if row.again is not None:
        options = None if row.options is None else PrelabelOptions.of(row.options)
        _request(session, row.key, row.kind, row.again, options).job.not_before = row.not_before
    ended = select(Job.id).where(of_project(Job, row.key), Job.kind == row.kind, Job.state.not_in(OPEN))
    latest = ended.order_by(Job.requested_at.desc()).limit(KEPT)
    last_attempt = ended.order_by(Job.last_event.desc().nulls_last(), Job.requested_at.desc()).limit(1)
    outdated = (Job.id.in_(ended), Job.id.not_in(latest), Job.id.not_in(last_attempt))
    session.execute(delete(Job).where(*outdated).execution_options(synchronize_session=False))
