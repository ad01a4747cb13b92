"""What happens to jobs within a transaction, which may be one that does something else besides.

Every moment that is compared is the database's: workers on several machines needn't agree about the time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, func, select, text, update
from sqlalchemy.orm import Session

from ram_backend.errors import JobLost
from ram_backend.jobs.job import Claim, Job, Kind, Outcome, State
from ram_backend.jobs.prelabel_options import Wanted
from ram_backend.jobs.rows import JobRow
from ram_backend.logs import asked_by
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import key_columns, of_project

OPEN = ("requested", "running")

KEPT = 200
"""Finished jobs of one kind that are kept per project."""


BACK_OFF_S = (1.0, 10.0, 60.0, 300.0)
"""How long a job waits after its first, second, ... attempt that failed; the last one holds for all further ones."""

TAKEN_OVER_S = (0.0, 2.0, 10.0)
"""The same after attempts whose worker has ended: mostly it was not the job's fault."""


@dataclass(frozen=True)
class Requested:
    """The job that a request led to.

    Attributes:
        job: open now.
        is_new: False: it was there already, and covers this request too.
    """

    job: Job
    is_new: bool


def request_in(
    session: Session,
    key: ProjectKey,
    kind: Kind,
    reason: str,
    options: Mapping[str, Any] | None = None,
    *,
    delay_s: float = 0.0,
) -> Requested:
    """`JobTable.request` within a transaction."""
    now = moment(session)
    begin = now + timedelta(seconds=delay_s)
    row = session.scalars(
        select(JobRow).where(of_project(JobRow, key), JobRow.kind == kind, JobRow.state.in_(OPEN)).with_for_update()
    ).one_or_none()
    if row is None:
        row = JobRow(
            job_id=uuid.uuid4().hex,
            kind=kind,
            **key_columns(key),
            state="requested",
            reason=reason,
            requested_at=now,
            not_before=begin,
            fence=0,
            attempt=0,
            step=0,
            steps=0,
            message="",
            options=None if options is None else dict(options),
            request=asked_by(),
        )
        session.add(row)
        session.flush()
        return Requested(job_of(row), True)
    if options is not None:
        row.options = Wanted.of(row.options).also(Wanted.of(options)).to_json()
    if row.state == "running":
        row.again = reason
    elif row.not_before > begin:
        row.not_before = begin
    session.flush()
    return Requested(job_of(row), False)


def finish_in(session: Session, claim: Claim, outcome: Outcome) -> None:
    """`JobTable.finish` within a transaction, e.g. the one that publishes a version.

    Raises:
        JobLost: the claim is good no more; the transaction has to be rolled back.
    """
    now = moment(session)
    changes: dict[str, Any] = {
        "state": "done",
        "finished_at": now,
        "heartbeat_at": now,
        "message": outcome.message,
        "result": dict(outcome.result),
        "eta_s": None,
    }
    if outcome.last_event is not None:
        changes["last_event"] = outcome.last_event
    change(session, claim, changes)
    if outcome.refresh is not None:
        request_in(session, claim.key, "refresh", outcome.refresh)
    _forget_old(session, claim)


def end_attempt(
    session: Session,
    row: JobRow,
    message: str,
    *,
    retry: bool,
    attempts: int,
    seen: int | Callable[[ProjectKey], int] | None,
    waits: Sequence[float] = BACK_OFF_S,
) -> bool:
    """Ends an attempt badly: the job waits for another one, or has failed.

    Args:
        session: of a transaction that writes.
        row: of the job; its claim was looked at.
        message: what happened, in one line.
        retry: whether trying again may help.
        attempts: after so many it has failed all the same.
        seen: events of the ledger up to this one count as tried, where the job itself has noted none.
        waits: seconds to wait after the first, second, ... attempt.

    Returns:
        Whether it will be tried again.
    """
    now = moment(session)
    row.message, row.stage, row.step, row.steps, row.eta_s = message, None, 0, 0, None
    if retry and row.attempt < attempts:
        wait = waits[min(row.attempt, len(waits)) - 1]
        row.state, row.not_before = "requested", now + timedelta(seconds=wait)
        row.queued_at = row.queued_as = None
        return True
    if row.attempt >= attempts > 1 and retry:
        row.message = f"Given up after {row.attempt} attempts. The last one: {message}"
    row.state, row.finished_at = "failed", now
    if row.last_event is None and row.kind == "train":
        row.last_event = seen(row.key) if callable(seen) else seen
    return False


def moment(session: Session) -> datetime:
    """What the database's clock says now, also within a transaction; UTC, to the millisecond at least."""
    if session.get_bind().dialect.name == "sqlite":
        said = session.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(said).replace(tzinfo=UTC)
    return cast(datetime, session.execute(select(func.clock_timestamp())).scalar_one()).astimezone(UTC)


def change(session: Session, claim: Claim, changes: Mapping[str, Any]) -> None:
    """Changes columns of a claimed job.

    Raises:
        JobLost: the claim is good no more; nothing was changed.
    """
    good = (JobRow.job_id == claim.job.id, JobRow.fence == claim.fence, JobRow.state == "running")
    if not rows_changed(session, update(JobRow).where(*good).values(dict(changes))):
        raise lost(claim)


def rows_changed(session: Session, statement: Any) -> int:
    """Executes a statement; says how many rows it has changed."""
    outcome = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], outcome).rowcount


def lost(claim: Claim) -> JobLost:
    """What whoever has lost a claim is told."""
    return JobLost(
        f"Job {claim.job.id} of project {claim.key} belongs to another worker by now: what this one did is not used."
    )


def _forget_old(session: Session, claim: Claim) -> None:
    """Removes the oldest finished jobs of a project; never the one that has seen the latest events."""
    rows = list(
        session.execute(
            select(JobRow.job_id, JobRow.last_event)
            .where(of_project(JobRow, claim.key), JobRow.kind == claim.job.kind, JobRow.state.not_in(OPEN))
            .order_by(JobRow.requested_at.desc())
        )
    )
    latest = max((row.last_event or 0 for row in rows), default=0)
    for row in rows[KEPT:]:
        if (row.last_event or 0) < latest or latest == 0:
            session.delete(session.get_one(JobRow, row.job_id))


def job_of(row: JobRow) -> Job:
    """A row as everybody reads it."""
    return Job(
        id=row.job_id,
        kind=cast(Kind, row.kind),
        key=row.key,
        state=cast(State, row.state),
        reason=row.reason,
        again=row.again,
        requested_at=row.requested_at,
        not_before=row.not_before,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        finished_at=row.finished_at,
        fence=row.fence,
        attempt=row.attempt,
        worker=row.worker,
        stage=row.stage,
        step=row.step,
        steps=row.steps,
        eta_s=row.eta_s,
        message=row.message,
        result=row.result,
        last_event=row.last_event,
        options=row.options,
        kept=row.kept,
        request=row.request,
    )
