"""Job table as a queue: request, claim, lease and heartbeat, retry with backoff, finish.

Each change locks the job's row and is one transaction, or part of the caller's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, cast, get_args

from sqlalchemy import delete, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import OPEN, Job, JobKind, JobOptions, JobResult, JobState
from ram_backend.logs import request_id
from ram_backend.periodic import backoff
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import key_columns, of_project

MAX_ENDED = 200
"""Most ended jobs of one kind per project; the oldest are removed."""

BACKOFF_S = (1.0, 300.0)
"""Pause after the first failed attempt, and the longest."""


class Requested(NamedTuple):
    """The open job that covers a request; `is_new`: the request made it."""

    job: Job
    is_new: bool


class JobTable:
    """All jobs. Everything here waits for the database.

    Methods that take a claimed job raise `JobLost`, and write nothing, if
    another claim followed or the job has ended.

    Args:
        attempts: claims of a job before it counts as failed.
        lease_s: a claim is good for this time after its last heartbeat.
    """

    def __init__(self, database: Database, *, attempts: int = 3, lease_s: float = 15.0) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._attempts = attempts
        self._lease_s = lease_s

    def request(
        self,
        key: ProjectKey,
        kind: JobKind,
        reason: str,
        options: JobOptions | None = None,
        *,
        delay_s: float = 0.0,
        share: int = 0,
        within: Session | None = None,
    ) -> Requested:
        """Requests a job; a project has one open job per kind and share.

        Where it runs already, its end requests another one. Where it waits, it
        gets these options besides its own, and waits no longer for `delay_s`.
        `within`: the caller's transaction; None: one of its own.
        """
        if within is None:
            with suppress(IntegrityError), self._database.writing() as session:
                return self.request(key, kind, reason, options, delay_s=delay_s, share=share, within=session)
            with self._database.writing() as session:  # another process did so (PostgreSQL)
                return self.request(key, kind, reason, options, delay_s=delay_s, share=share, within=session)
        now = database_now(within)
        begin = now + timedelta(seconds=delay_s)
        job = within.scalars(
            select(Job)
            .where(of_project(Job, key), Job.kind == kind, Job.share == share, Job.state.in_(OPEN))
            .with_for_update()
        ).one_or_none()
        if job is None:
            job = Job(id=uuid.uuid4().hex, kind=kind, share=share, reason=reason, **key_columns(key))
            job.requested_at, job.not_before, job.request_id = now, begin, request_id.get()
            job.options = None if options is None else asdict(options)
            within.add(job)
            return Requested(job, True)
        if options is not None:
            job.options = asdict(JobOptions.of(job.options) | options)
        if job.state == "running":
            job.rerun_reason, job.not_before = reason, begin
        else:
            job.not_before = min(job.not_before, begin)
        return Requested(job, False)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now; None: it doesn't exist."""
        with self._database.reading() as session:
            return session.get(Job, job_id)

    def jobs(self, key: ProjectKey | None = None, *, kind: JobKind | None = None, limit: int = 50) -> list[Job]:
        """Jobs of a project or of all, open ones first, then the latest."""
        query = select(Job).order_by(Job.state.in_(OPEN).desc(), Job.requested_at.desc(), Job.id)
        if key is not None:
            query = query.where(of_project(Job, key, unnamed=True))
        if kind is not None:
            query = query.where(Job.kind == kind)
        with self._database.reading() as session:
            return list(session.scalars(query.limit(limit)))

    def open_jobs(self) -> dict[tuple[str, str], int]:
        """Number of open jobs of all projects by kind and state, zeros included."""
        query = select(Job.kind, Job.state, func.count()).where(Job.state.in_(OPEN))
        counts: dict[tuple[str, str], int] = {(kind, state): 0 for kind in get_args(JobKind) for state in OPEN}
        with self._database.reading() as session:
            for kind, state, count in session.execute(query.group_by(Job.kind, Job.state)):
                counts[kind, state] = count
        return counts

    def last_attempts(self, key: ProjectKey | None = None) -> dict[ProjectKey, int]:
        """Number of the last event that ended trainings have seen, by project."""
        project = (Job.instance, Job.project_id, Job.created)
        ended = Job.kind == "train", Job.state.not_in(OPEN)
        query = select(*project, func.max(Job.last_event)).where(*ended)
        if key is not None:
            query = query.where(of_project(Job, key, unnamed=True))
        with self._database.reading() as session:
            return {ProjectKey(*row[:3]): row[3] or 0 for row in session.execute(query.group_by(*project))}

    def due(self, waited_s: float = 0.0) -> list[Job]:
        """Jobs that a worker could begin `waited_s` ago; the oldest first."""
        with self._database.reading() as session:
            since = database_now(session) - timedelta(seconds=waited_s)
            query = select(Job).where(Job.state == "requested", Job.not_before <= since)
            return list(session.scalars(query.order_by(Job.requested_at, Job.id)))

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Claims a due job, with a new fencing number; None: it isn't due."""
        with self._database.writing() as session:
            now = database_now(session)
            job = session.get(Job, job_id, with_for_update=True)
            if job is None or job.state != "requested" or job.not_before > now:
                return None
            job.state, job.worker = "running", worker
            job.message, job.rerun_reason = "", None
            job.fence, job.attempt = job.fence + 1, job.attempt + 1
            job.started_at = job.heartbeat_at = now
            return job

    def heartbeat(self, job: Job, stage: str | None = None, step: int = 0, steps: int = 0) -> bool:
        """Renews a lease and writes progress; False: the job has ended."""
        with self._database.writing() as session:
            row = _claimed(session, job, may_have_ended=True)
            if row.state != "running":
                return False
            row.heartbeat_at = database_now(session)
            if stage is not None:
                row.stage, row.step, row.steps = stage, step, steps
            return True

    def checkpoint(self, job: Job, checkpoint: Mapping[str, Any], *, progressed: bool = False) -> None:
        """Records JSON for the next attempt; `progressed`: attempts count anew."""
        with self._database.writing() as session:
            row, now = _claimed(session, job), database_now(session)
            row.checkpoint = {**checkpoint, "at": now.isoformat()}
            row.heartbeat_at = now
            if progressed:
                row.attempt = 1

    def release(self, job: Job, message: str, *, delay_s: float = 1.0) -> None:
        """Lets other jobs go first; this attempt doesn't count."""
        with self._database.writing() as session:
            row = _claimed(session, job)
            row.attempt -= 1
            _wait_again(session, row, message, delay_s)

    def finish(self, job: Job, result: JobResult, session: Session | None = None) -> None:
        """Completes a job, in a transaction that a `JobLost` has to roll back."""
        with self._database.writing() if session is None else nullcontext(session) as transaction:
            row = _claimed(transaction, job)
            row.result = dict(result.result)
            if result.last_event is not None:
                row.last_event = result.last_event
            if result.refresh is not None:
                self.request(job.key, "refresh", result.refresh, within=transaction)
            self._end(transaction, row, "done", result.message)

    def fail(self, job: Job, message: str, *, retry: bool) -> bool:
        """Records a failed attempt; returns whether another one follows."""
        with self._database.writing() as session:
            row = _claimed(session, job)
            pause_s = next(islice(backoff(*BACKOFF_S, factor=10), max(0, row.attempt - 1), None))
            return self._end_attempt(session, row, message, pause_s if retry else None)

    def expire(self) -> list[Job]:
        """Ends attempts whose lease has expired; returns their jobs."""
        with self._database.reading() as session:
            since = database_now(session) - timedelta(seconds=self._lease_s)
            expired = select(Job).where(Job.state == "running", Job.heartbeat_at < since)
            if session.scalars(expired).first() is None:
                return []
        with self._database.writing() as session:
            rows = session.scalars(expired.with_for_update(skip_locked=True)).all()  # a locked one has a heartbeat
            for row in rows:
                row.fence += 1
                attempt = f"attempt {row.attempt} of {self._attempts}"
                message = f"The worker sent no heartbeat for {self._lease_s:g} s ({attempt})."
                self._end_attempt(session, row, message, 0.0)
            return list(rows)

    def _end_attempt(self, session: Session, row: Job, message: str, pause_s: float | None) -> bool:
        """Retries a job after a pause, or fails it; a failed training has seen all events."""
        if pause_s is not None and row.attempt < self._attempts:
            _wait_again(session, row, message, pause_s)
            return True
        if pause_s is not None and self._attempts > 1:
            message = f"Given up after {row.attempt} attempts. The last one: {message}"
        row.stage, row.step, row.steps = None, 0, 0
        if row.kind == "train" and row.last_event is None:
            row.last_event = self._ledger.last_event(row.key)
        self._end(session, row, "failed", message)
        return False

    def _end(self, session: Session, row: Job, state: JobState, message: str) -> None:
        """Ends a job, requests its rerun, and removes the oldest ended jobs of its kind.

        The one that has seen the latest events stays: they count as tried.
        """
        row.state, row.message, row.finished_at = state, message, database_now(session)
        if row.rerun_reason is not None:
            options = None if row.options is None else JobOptions.of(row.options)
            rerun = self.request(row.key, row.kind, row.rerun_reason, options, share=row.share, within=session).job
            rerun.not_before = row.not_before
        ended = select(Job.id).where(of_project(Job, row.key), Job.kind == row.kind, Job.state.not_in(OPEN))
        latest = ended.order_by(Job.requested_at.desc()).limit(MAX_ENDED)
        by_event = ended.order_by(Job.last_event.desc().nulls_last(), Job.requested_at.desc())
        outdated = (Job.id.in_(ended), Job.id.not_in(latest), Job.id.not_in(by_event.limit(1)))
        session.execute(delete(Job).where(*outdated).execution_options(synchronize_session=False))


def database_now(session: Session) -> datetime:
    """The database's clock (UTC), which advances within a transaction."""
    if session.get_bind().dialect.name == "sqlite":
        now = session.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(now).replace(tzinfo=UTC)
    return cast(datetime, session.execute(select(func.clock_timestamp())).scalar_one()).astimezone(UTC)


def _claimed(session: Session, job: Job, *, may_have_ended: bool = False) -> Job:
    """The locked row of a job that runs under this very claim."""
    row = session.get(Job, job.id, with_for_update=True)
    if row is None or row.fence != job.fence or not (row.state == "running" or may_have_ended):
        raise JobLost(
            f"Job {job.id} of project {job.key} belongs to another worker by now: what this one did is not used."
        )
    return row


def _wait_again(session: Session, row: Job, message: str, delay_s: float) -> None:
    row.state, row.message = "requested", message
    row.not_before = database_now(session) + timedelta(seconds=delay_s)
    row.stage, row.step, row.steps = None, 0, 0
