"""What an attempt leaves for the next one: notes, and the job itself where others go first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Claim
from ram_backend.jobs.rows import JobRow
from ram_backend.jobs.transactions import change, moment


def keep(database: Database, claim: Claim, kept: Mapping[str, Any], *, progressed: bool = False) -> None:
    """Keeps something for the next attempt, durably.

    Args:
        database: of the jobs.
        claim: on the job.
        kept: JSON; "at", the database's time, is added to it.
        progressed: the attempt has got somewhere: it counts as the first one from now on.

    Raises:
        JobLost: the claim is good no more; nothing was written.
        DatabaseUnavailable: see the message.
    """
    with database.writing() as session:
        now = moment(session)
        changes = {"kept": {**kept, "at": now.isoformat()}, "heartbeat_at": now}
        change(session, claim, changes | ({"attempt": 1} if progressed else {}))


def lay_aside(database: Database, claim: Claim, message: str, *, seconds: float = 1.0) -> None:
    """Lets other jobs go first: this one waits for a worker again, as if this attempt had not been.

    Args:
        database: of the jobs.
        claim: on the job.
        message: why, in one line.
        seconds: that it waits at least.

    Raises:
        JobLost: the claim is good no more; nothing was written.
        DatabaseUnavailable: see the message.
    """
    with database.writing() as session:
        changes = {"state": "requested", "not_before": moment(session) + timedelta(seconds=seconds), "message": message}
        unqueued = {"queued_at": None, "queued_as": None, "attempt": JobRow.attempt - 1, "eta_s": None}
        change(session, claim, {**changes, **unqueued})
