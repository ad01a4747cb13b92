"""Jobs in the database: asked for, claimed, taken over, finished; each change is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast, get_args

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.jobs.job import Claim, Job, Kind, Outcome, Progress
from ram_backend.jobs.processes import Worker
from ram_backend.jobs.rows import JobRow
from ram_backend.jobs.transactions import (
    OPEN,
    TAKEN_OVER_S,
    Requested,
    change,
    end_attempt,
    finish_in,
    job_of,
    lost,
    moment,
    request_in,
    rows_changed,
)
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import of_project


@dataclass(frozen=True)
class Due:
    """A job that a worker may begin.

    Attributes:
        queued_as: under which number it was last put into the queue; None: it was not, since its last attempt.
        waited_s: how long ago that was, or since when it is due.
    """

    job_id: str
    kind: Kind
    queued_as: str | None
    waited_s: float


class JobTable:
    """All jobs. Everything here waits for the database.

    Args:
        database: migrated.
        attempts: how often a job is begun before it counts as failed.
        claim_s: age of a heartbeat from which on a claim may be taken over.
    """

    def __init__(self, database: Database, *, attempts: int = 3, claim_s: float = 15.0) -> None:
        self._database = database
        self._attempts = attempts
        self._claim_s = claim_s

    def request(
        self,
        key: ProjectKey,
        kind: Kind,
        reason: str,
        options: Mapping[str, Any] | None = None,
        *,
        delay_s: float = 0.0,
    ) -> Requested:
        """Asks for a job. Of each kind a project has one open job at most, so asking five times gives one.

        Where it runs already, it is noted that it was asked for again (see `owed`). Where it waits after an attempt
        that failed, it waits no longer.

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
            row = session.get(JobRow, job_id)
            return None if row is None else job_of(row)

    def jobs(self, key: ProjectKey | None = None, *, kind: Kind | None = None, limit: int = 50) -> list[Job]:
        """Open jobs first, then the latest.

        Args:
            key: of that project; rows that no Label Studio was named for are its own, too. None: of all.
            kind: only of that kind.
            limit: at most so many.
        """
        question = select(JobRow).order_by(JobRow.state.in_(OPEN).desc(), JobRow.requested_at.desc(), JobRow.job_id)
        if key is not None:
            question = question.where(of_project(JobRow, key, unnamed=True))
        if kind is not None:
            question = question.where(JobRow.kind == kind)
        with self._database.reading() as session:
            return [job_of(row) for row in session.scalars(question.limit(limit))]

    def open_jobs(self) -> dict[tuple[str, str], int]:
        """How many jobs of all projects wait or run: every kind with every such state, also where there are none."""
        question = select(JobRow.kind, JobRow.state, func.count()).where(JobRow.state.in_(OPEN))
        counts = {(kind, state): 0 for kind in get_args(Kind) for state in OPEN}
        with self._database.reading() as session:
            for kind, state, count in session.execute(question.group_by(JobRow.kind, JobRow.state)):
                counts[kind, state] = count
        return counts

    def last_attempt(self, key: ProjectKey) -> int:
        """Number of the last event that a finished training of the project has seen; 0: there was none."""
        question = select(func.max(JobRow.last_event)).where(
            of_project(JobRow, key, unnamed=True), JobRow.kind == "train", JobRow.state.not_in(OPEN)
        )
        with self._database.reading() as session:
            return session.scalar(question) or 0

    def due(self) -> list[Due]:
        """Jobs that wait for a worker, longest first."""
        with self._database.reading() as session:
            now = moment(session)
            rows = session.scalars(
                select(JobRow)
                .where(JobRow.state == "requested", JobRow.not_before <= now)
                .order_by(JobRow.requested_at, JobRow.job_id)
            )
            return [
                Due(
                    row.job_id,
                    cast(Kind, row.kind),
                    row.queued_as,
                    (now - (row.queued_at or row.not_before)).total_seconds(),
                )
                for row in rows
            ]

    def note_queued(self, due: Due, number: str | None) -> bool:
        """Notes that a job is put into the queue, or was not (None); False: somebody else has noted something."""
        with self._database.writing() as session:
            as_before = JobRow.queued_as.is_(None) if due.queued_as is None else JobRow.queued_as == due.queued_as
            changes = {"queued_as": number, "queued_at": None if number is None else moment(session)}
            here = update(JobRow).where(JobRow.job_id == due.job_id, as_before).values(changes)
            return rows_changed(session, here) == 1

    def claim(self, job_id: str, worker: Worker) -> Claim | None:
        """Takes a job that is due; None: it is not there, not due, taken already, or finished."""
        with self._database.writing() as session:
            now = moment(session)
            row = session.get(JobRow, job_id, with_for_update=True)
            if row is None or row.state != "requested" or row.not_before > now:
                return None
            row.state, row.worker = "running", str(worker)
            row.fence, row.attempt = row.fence + 1, row.attempt + 1
            row.started_at = row.heartbeat_at = now
            row.stage, row.step, row.steps, row.eta_s, row.message = None, 0, 0, None, ""
            session.flush()
            return Claim(job_of(row), row.fence)

    def beat(self, claim: Claim, progress: Progress | None = None) -> bool:
        """Gives a sign of life, with news where there are some; False: the claim is good no more."""
        with self._database.writing() as session:
            changes: dict[str, Any] = {"heartbeat_at": moment(session)}
            if progress is not None:
                changes |= {
                    "stage": progress.stage,
                    "step": progress.step,
                    "steps": progress.steps,
                    "eta_s": progress.eta_s,
                }
            try:
                change(session, claim, changes)
            except JobLost:
                return False
            return True

    def note_seen(self, claim: Claim, last_event: int) -> None:
        """Notes up to which event of the ledger a job has looked.

        Raises:
            JobLost: the claim is good no more.
        """
        with self._database.writing() as session:
            change(session, claim, {"last_event": last_event})

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Ends a job well, whatever its verdict.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            finish_in(session, claim, outcome)

    def fail(self, claim: Claim, message: str, *, retry: bool, seen: int | None = None) -> bool:
        """Ends an attempt badly.

        Args:
            claim: on the job.
            message: what happened, in one line.
            retry: whether trying again may help: the job then waits a while, unless it was tried often enough.
            seen: events of the ledger up to this one count as tried, where the job itself has noted none.

        Returns:
            Whether it will be tried again.

        Raises:
            JobLost: the claim is good no more; nothing was written.
        """
        with self._database.writing() as session:
            row = session.get(JobRow, claim.job.id, with_for_update=True)
            if row is None or row.state != "running" or row.fence != claim.fence:
                raise lost(claim)
            return end_attempt(session, row, message, retry=retry, attempts=self._attempts, seen=seen)

    def take_over(self, seen: Callable[[ProjectKey], int] = lambda key: 0, *, silent_too: bool = True) -> list[Job]:
        """Ends the attempts of workers that are dead, or have given no sign of life for long.

        Their jobs wait for a worker again, or have failed where they were tried often enough. What the former holder
        of such a claim writes from now on is refused.

        Args:
            seen: number of the last event in the ledger of a project.
            silent_too: False: only of workers that are dead for certain. For when the database was away: nobody could
                give a sign of life.

        Returns:
            The jobs, as they are now.
        """
        with self._database.reading() as session:
            now = moment(session)
            running = list(session.scalars(select(JobRow).where(JobRow.state == "running")))
            stale = [
                (row.job_id, row.fence, reason) for row in running if (reason := self._is_stale(row, now, silent_too))
            ]
        taken: list[Job] = []
        for job_id, fence, reason in stale:
            with self._database.writing() as session:
                row = session.get(JobRow, job_id, with_for_update=True)
                still = row is not None and (row.state, row.fence) == ("running", fence)
                if row is not None and still and self._is_stale(row, moment(session), silent_too):
                    row.fence += 1
                    tried = f"attempt {row.attempt} of {self._attempts}"
                    end_attempt(
                        session,
                        row,
                        f"{reason} ({tried}).",
                        retry=True,
                        attempts=self._attempts,
                        seen=seen,
                        waits=TAKEN_OVER_S,
                    )
                    session.flush()
                    taken.append(job_of(row))
        return taken

    def owed(self) -> list[tuple[Job, float]]:
        """Finished jobs that were asked for once more while they ran, and how many seconds ago they ended."""
        with self._database.reading() as session:
            now = moment(session)
            rows = session.scalars(select(JobRow).where(JobRow.again.is_not(None), JobRow.state.not_in(OPEN)))
            return [(job_of(row), (now - row.finished_at).total_seconds() if row.finished_at else 0.0) for row in rows]

    def settle_owed(self, job: Job, *, request: bool, delay_s: float = 0.0) -> Job | None:
        """Answers what a finished job still owed: with another one after a while, or by noting that none is needed."""
        with self._database.writing() as session:
            still = update(JobRow).where(JobRow.job_id == job.id, JobRow.again.is_not(None)).values(again=None)
            if rows_changed(session, still) and request:
                return request_in(session, job.key, job.kind, job.again or job.reason, job.options, delay_s=delay_s).job
        return None

    def _is_stale(self, row: JobRow, now: datetime, silent_too: bool) -> str | None:
        worker = Worker.parse(row.worker or "")
        if worker is not None and worker.is_known_dead:
            return "The worker's process has ended before the job did"
        silent = row.heartbeat_at is None or now - row.heartbeat_at > timedelta(seconds=self._claim_s)
        if silent and silent_too:
            return f"The worker has given no sign of life for {self._claim_s:g} s"
        return None
