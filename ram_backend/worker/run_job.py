"""One job from its claim to its end, whatever happens in between."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, InputError, JobLost, NotAvailable, RamError, SettingsError
from ram_backend.jobs.job import Claim, Kind, Outcome
from ram_backend.jobs.processes import Worker
from ram_backend.jobs.triggers import Triggers
from ram_backend.logs import in_the_name_of
from ram_backend.settings import Settings
from ram_backend.worker.heartbeat import Pulse

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a job's function works with.

    Attributes:
        settings: of the worker.
        database: migrated.
        triggers: jobs, ledger and versions.
        claim: on the job; what is published is published in its name.
        pulse: told what is being done.
    """

    settings: Settings
    database: Database
    triggers: Triggers
    claim: Claim
    pulse: Pulse


Function = Callable[[Task], Outcome | None]
"""Does a job. Returns what came of it; None: that has been written already, along with what it published."""


def carry_out(
    settings: Settings,
    database: Database,
    job_id: str,
    functions: Mapping[Kind, Function],
    *,
    worker: Worker,
    is_orphan: Callable[[], bool] = lambda: False,
    on_lost: Callable[[str], None] = lambda reason: None,
    limit_s: float | None = None,
) -> str:
    """Claims a job and does it, if it is still to be done.

    Args:
        settings: of the worker.
        database: migrated.
        job_id: which job.
        functions: per kind what does it.
        worker: the processes that carry it out.
        is_orphan: whether the worker has ended that started this process.
        on_lost: ends this process; called from a thread where the claim is good no more.
        limit_s: when it has taken longer, it has failed, and `on_lost` is called; None: it may take any time.

    Returns:
        What came of it, in one line for the log. Errors of the job are noted in its row, not raised.

    Raises:
        DatabaseUnavailable: the job can't be claimed, or its end can't be noted: it will be taken over.
    """
    triggers = Triggers(settings, database)
    claim = triggers.jobs.claim(job_id, worker)
    if claim is None:
        said = f"job {job_id} is done, taken, or not due"
        _log.info("%s", said)
        return said
    with in_the_name_of(claim.job.request):
        try:
            pulse = Pulse(
                *(triggers.jobs, claim),
                is_orphan=is_orphan,
                on_lost=on_lost,
                usual_s=_usual_seconds(triggers, claim),
                limit_s=limit_s,
                on_overrun=lambda: _fail(triggers, claim, _too_long(limit_s), retry=False),
            )
            said = _do(Task(settings, database, triggers, claim, pulse), functions)
        except JobLost as error:
            _log.info("%s", error)
            return str(error)
        _log.info("%s", said, extra={"fields": {"job": job_id, "kind": claim.job.kind, "project": str(claim.key)}})
    triggers.follow_up()
    if claim.job.kind == "train":
        triggers.check(claim.key)
    return said


def _do(task: Task, functions: Mapping[Kind, Function]) -> str:
    """Does a claimed job; what came of it.

    Raises:
        JobLost: the claim is good no more.
    """
    triggers, claim, job = task.triggers, task.claim, task.claim.job
    _log.info("%s of project %s begins: %s (job %s)", job.kind, claim.key, job.reason, job.id)
    try:
        with task.pulse:
            outcome = functions[job.kind](task)
            if outcome is not None:
                result = {**outcome.result, "seconds": task.pulse.seconds}
                triggers.jobs.finish(claim, Outcome(outcome.message, result, outcome.last_event, outcome.refresh))
        ended = triggers.jobs.get(job.id)
        return f"job {job.id}: {ended.message if ended else 'gone'}"
    except JobLost:
        raise
    except (InputError, SettingsError) as error:
        return _fail(triggers, claim, str(error), retry=False)
    except NotAvailable as error:
        return _fail(triggers, claim, str(error), retry=True)
    except Exception as error:
        _log.exception("job %s failed", job.id)
        message = str(error) if isinstance(error, RamError) else f"{type(error).__name__}: {error}"[:500]
        return _fail(triggers, claim, f"It failed unexpectedly ({message}); the worker's log tells where.", retry=False)


def _fail(triggers: Triggers, claim: Claim, message: str, *, retry: bool) -> str:
    try:
        seen = triggers.ledger.last_event(claim.key)
        again = triggers.jobs.fail(claim, message, retry=retry, seen=seen)
    except JobLost as lost:
        return str(lost)
    outcome = "waits for another attempt" if again else "has failed"
    return f"job {claim.job.id} {outcome}: {message}"


def _too_long(limit_s: float | None) -> str:
    return f"It took longer than {limit_s} s: give workers more with RAM_JOB_TIMEOUT_SECONDS, and ask again."


def _usual_seconds(triggers: Triggers, claim: Claim) -> dict[str, float]:
    """Seconds per stage of the last such job that was done; {} where there was none."""
    try:
        earlier = triggers.jobs.jobs(claim.key, kind=claim.job.kind, limit=5)
    except DatabaseUnavailable:
        return {}
    for job in earlier:
        seconds = (job.result or {}).get("seconds")
        if job.state == "done" and isinstance(seconds, dict):
            return {str(stage): float(value) for stage, value in seconds.items()}
    return {}
