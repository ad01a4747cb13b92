"""Job queue in a table: request, claim, heartbeat, retry with backoff, finish.

Each change is one transaction, or part of the caller's (`request_in`, `finish_in`). Every moment that is compared is
the database's: workers on several machines needn't agree about the time.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast, get_args

from sqlalchemy import CursorResult, and_, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ram_backend.backoff import backoff
from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import OPEN, TRANSITIONS, Job, JobResult, Kind, PrelabelOptions, Transition
from ram_backend.logs import asked_by
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
        lease_s: a claim is good for so long after its last heartbeat.
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
        try:
            with self._database.writing() as session:
                return request_in(session, key, kind, reason, options, delay_s=delay_s)
        except IntegrityError:  # another process has asked at this very moment (PostgreSQL)
            with self._database.writing() as session:
                return request_in(session, key, kind, reason, options, delay_s=delay_s)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now; None: there is none of that number."""
        with self._database.reading() as session:
            return session.get(Job, job_id)

    def jobs(self, key: ProjectKey | None = None, *, kind: Kind | None = None, limit: int = 50) -> list[Job]:
        """Open jobs first, then the latest.

        Args:
            key: of that project; rows that no Label Studio was named for are its own, too. None: of all.
            kind: only of that kind.
            limit: at most so many.
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
        counts: dict[tuple[str, str], int] = {(kind, state): 0 for kind in get_args(Kind) for state in OPEN}
        with self._database.reading() as session:
            for kind, state, count in session.execute(question):
                counts[kind, state] = count
        return counts

    def last_attempt(self, key: ProjectKey) -> int:
        """Number of the last event that an ended training of the project has seen; 0: there was none."""
        question = select(func.max(Job.last_event)).where(
            of_project(Job, key, unnamed=True), Job.kind == "train", Job.state.not_in(OPEN)
        )
        with self._database.reading() as session:
            return session.scalar(question) or 0

    def due(self, waited_s: float = 0.0) -> list[Job]:
        """Jobs that a worker may begin, and could so many seconds ago; longest first."""
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
            now, job = moment(session), session.get(Job, job_id)
            if job is None or job.state != "requested" or job.not_before > now:
                return None
            begun = {"fence": job.fence + 1, "attempt": job.attempt + 1, "started_at": now, "heartbeat_at": now}
            try:
                _apply(session, job, "claim", {**begun, "worker": worker, "message": "", "again": None})
            except JobLost:
                return None
            return job

    def heartbeat(self, job: Job, stage: str | None = None, step: int = 0, steps: int = 0) -> bool:
        """Renews a lease, and writes how far the job is where a stage is named.

        Returns:
            False: the job has ended under this very claim; nothing was written.

        Raises:
            JobLost: another claim followed, or the lease was taken away.
        """
        progress = {} if stage is None else {"stage": stage, "step": step, "steps": steps}
        with self._database.writing() as session:
            try:
                _apply(session, job, "heartbeat", {"heartbeat_at": moment(session), **progress})
            except JobLost:
                now = session.get(Job, job.id)
                if now is None or now.fence != job.fence:
                    raise
                return False
        return True

    def note_seen(self, job: Job, last_event: int) -> None:
        """Notes up to which event of the ledger a job has looked.

        Raises:
            JobLost: the claim is good no more.
        """
        with self._database.writing() as session:
            _apply(session, job, "heartbeat", {"last_event": last_event})

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
            now = moment(session)
            first = {"attempt": 1} if progressed else {}
            _apply(session, job, "heartbeat", {"kept": {**kept, "at": now.isoformat()}, "heartbeat_at": now, **first})

    def release(self, job: Job, message: str, *, delay_s: float = 1.0) -> None:
        """Lets other jobs go first: this one waits for a worker again, as if this attempt had not been.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            begin = moment(session) + timedelta(seconds=delay_s)
            stopped = {"stage": None, "step": 0, "steps": 0, "attempt": Job.attempt - 1}
            _apply(session, job, "release", {**stopped, "not_before": begin, "message": message})

    def finish(self, job: Job, result: JobResult) -> None:
        """Ends a job well, whatever its verdict.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            finish_in(session, job, result)

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
        seen = self._ledger.last_event(job.key)
        with self._database.writing() as session:
            attempt = session.get_one(Job, job.id).attempt
            pause_s = next(islice(backoff(*BACKOFF_S, factor=10), max(0, attempt - 1), None))
            return self._end_attempt(session, job, message, seen, pause_s if retry else None)

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
            found = list(session.scalars(select(Job).where(Job.state == "running", stale)))
        expired: list[Job] = []
        for job in found:
            seen = self._ledger.last_event(job.key)
            with self._database.writing() as session:
                held = (Job.id == job.id, Job.fence == job.fence, Job.state == "running", stale)
                if (row := session.scalar(select(Job).where(*held).with_for_update())) is not None:  # no sign meanwhile
                    message = f"{reason} (attempt {row.attempt} of {self._attempts})."
                    self._end_attempt(session, job, message, seen, 0.0, fence=job.fence + 1)
                    expired.append(row)
        return expired

    def _end_attempt(
        self, session: Session, job: Job, message: str, seen: int, pause_s: float | None, **columns: Any
    ) -> bool:
        """Retries a job after a pause, or fails it: then events of the ledger up to `seen` count as tried."""
        row, now = session.get_one(Job, job.id), moment(session)
        ended = {"stage": None, "step": 0, "steps": 0, **columns}
        if pause_s is not None and row.attempt < self._attempts:
            begin = now + timedelta(seconds=pause_s)
            _apply(session, job, "release", {**ended, "message": message, "not_before": begin})
            return True
        if pause_s is not None and self._attempts > 1:
            message = f"Given up after {row.attempt} attempts. The last one: {message}"
        if job.kind == "train" and row.last_event is None:
            ended["last_event"] = seen
        _apply(session, job, "fail", {**ended, "message": message, "finished_at": now})
        _after_end(session, job)
        return False


def request_in(
    session: Session,
    key: ProjectKey,
    kind: Kind,
    reason: str,
    options: PrelabelOptions | None = None,
    *,
    delay_s: float = 0.0,
) -> Requested:
    """`JobQueue.request` within a transaction."""
    now = moment(session)
    begin = now + timedelta(seconds=delay_s)
    job = session.scalars(
        select(Job).where(of_project(Job, key), Job.kind == kind, Job.state.in_(OPEN)).with_for_update()
    ).one_or_none()
    if job is None:
        job = Job(id=uuid.uuid4().hex, kind=kind, reason=reason, requested_at=now, not_before=begin, request=asked_by())
        for name, value in key_columns(key).items():
            setattr(job, name, value)
        job.options = None if options is None else options.to_json()
        session.add(job)
        session.flush()
        return Requested(job, True)
    if options is not None:
        job.options = PrelabelOptions.of(job.options).also(options).to_json()
    if job.state == "running":
        job.again, job.not_before = reason, begin
    else:
        job.not_before = min(job.not_before, begin)
    session.flush()
    return Requested(job, False)


def finish_in(session: Session, job: Job, result: JobResult) -> None:
    """`JobQueue.finish` within a transaction, e.g. the one that publishes a version.

    Raises:
        JobLost: the claim is good no more; the transaction has to be rolled back.
    """
    now = moment(session)
    columns = {"finished_at": now, "heartbeat_at": now, "message": result.message, "result": dict(result.result)}
    if result.last_event is not None:
        columns["last_event"] = result.last_event
    _apply(session, job, "finish", columns)
    if result.refresh is not None:
        request_in(session, job.key, "refresh", result.refresh)
    _after_end(session, job)


def moment(session: Session) -> datetime:
    """What the database's clock says now, also within a transaction; UTC, to the millisecond at least."""
    if session.get_bind().dialect.name == "sqlite":
        now = session.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(now).replace(tzinfo=UTC)
    return cast(datetime, session.execute(select(func.clock_timestamp())).scalar_one()).astimezone(UTC)


def _apply(session: Session, job: Job, transition: Transition, columns: Mapping[str, Any]) -> None:
    """Makes a transition of a job, if it is still in the state and has the fencing number that are expected.

    Raises:
        JobLost: it is not, or has not; nothing was changed.
    """
    before, after = TRANSITIONS[transition]
    expected = (Job.id == job.id, Job.fence == job.fence, Job.state == before)
    change = update(Job).where(*expected).values(state=after, **columns).execution_options(synchronize_session=False)
    if cast(CursorResult[Any], session.execute(change)).rowcount == 0:
        raise JobLost(
            f"Job {job.id} of project {job.key} belongs to another worker by now: what this one did is not used."
        )
    own = session.get(Job, job.id)
    if own is not None:
        session.refresh(own)


def _after_end(session: Session, job: Job) -> None:
    """Asks for the job once more where somebody did while it ran; removes the oldest ended ones of its kind.

    The one that has seen the latest events stays: they count as tried.
    """
    ended = session.get_one(Job, job.id)
    if ended.again is not None:
        begin, now = ended.not_before, moment(session)
        options = None if ended.options is None else PrelabelOptions.of(ended.options)
        wait_s = max(0.0, (begin - now).total_seconds())
        request_in(session, job.key, job.kind, ended.again, options, delay_s=wait_s)
    rows = session.execute(
        select(Job.id, Job.last_event)
        .where(of_project(Job, job.key), Job.kind == job.kind, Job.state.not_in(OPEN))
        .order_by(Job.requested_at.desc())
    ).all()
    latest = max((row.last_event or 0 for row in rows), default=0)
    for row in rows[KEPT:]:
        if (row.last_event or 0) < latest or latest == 0:
            session.delete(session.get_one(Job, row.id))
