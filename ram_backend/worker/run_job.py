"""One job from its claim to its end: what RQ calls, and how errors end an attempt."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

from ram_backend.database.engine import Database, open_database
from ram_backend.errors import InputError, JobLost, NotAvailable, RamError, SettingsError
from ram_backend.jobs.job import Kind
from ram_backend.jobs.service import JobService
from ram_backend.logs import in_the_name_of
from ram_backend.settings import Settings, load_settings
from ram_backend.worker.context import JobContext, JobFunction
from ram_backend.worker.heartbeat import Heartbeat

FUNCTIONS: dict[Kind, str] = {
    "train": "ram_backend.worker.train:train",
    "refresh": "ram_backend.worker.prelabel:prelabel",
    "prelabel": "ram_backend.worker.prelabel:prelabel",
}
"""Per kind of job where the function is that does it: imported in the process that does one, by nobody else."""

LOST = 70
"""Exit status of a process whose job has ended under it."""

_log = logging.getLogger(__name__)


def worker_name(pid: int) -> str:
    """Names a process of this machine in the row of a job."""
    return f"{socket.gethostname()}/{pid}"


def run_job(job_id: str) -> str:
    """What RQ calls, in a process of its own: does a job with the settings of the environment."""
    settings = load_settings()
    database = open_database(settings)  # the worker has seen to its migrations
    try:
        return carry_out(settings, database, job_id, on_end=lambda reason: os._exit(LOST))
    finally:
        database.close()


def carry_out(
    settings: Settings,
    database: Database,
    job_id: str,
    functions: Mapping[Kind, JobFunction] | None = None,
    *,
    on_end: Callable[[str], None] | None = None,
) -> str:
    """Claims a job and does it, if it is still to be done.

    Args:
        settings: of the worker.
        database: migrated.
        job_id: which job.
        functions: per kind what does it; None: `FUNCTIONS`.
        on_end: ends this process; called from a thread where the lease is lost, or the time that the settings give a
            job is up. None: nobody does, and the time is not limited.

    Returns:
        What came of it, in one line for the log. Errors of the job are noted in its row, not raised.

    Raises:
        DatabaseUnavailable: the job can't be claimed, or its end can't be noted: its lease runs out.
    """
    service = JobService(settings, database)
    job = service.queue.claim(job_id, worker_name(os.getpid()))
    if job is None:
        _log.info("job %s is done, taken, or not due", job_id)
        return f"job {job_id} is done, taken, or not due"
    with in_the_name_of(job.request):
        limit_s = None if on_end is None else settings.job_timeout_seconds
        heartbeat = Heartbeat(service.queue, job, lease_s=settings.lease_seconds, limit_s=limit_s, on_end=on_end)
        context = JobContext(settings, database, service, job, heartbeat)
        try:
            message = f"job {job.id}: {_do(context, functions)}"
        except JobLost as error:
            _log.info("%s", error)
            return str(error)
        _log.info("%s", message, extra={"fields": {"job": job.id, "kind": job.kind, "project": str(job.key)}})
    if job.kind == "train":
        service.check(job.key)
    return message


def _do(context: JobContext, functions: Mapping[Kind, JobFunction] | None) -> str:
    """Does a claimed job; what came of it.

    Raises:
        JobLost: the lease is lost.
    """
    job = context.job
    _log.info("%s of project %s begins: %s (job %s)", job.kind, job.key, job.reason, job.id)
    try:
        function = functions[job.kind] if functions is not None else _function(job.kind)
        with context.heartbeat:
            result = function(context)
        if result is not None:
            seconds = {"seconds": context.heartbeat.seconds}
            context.queue.finish(job, replace(result, result={**result.result, **seconds}))
        ended = context.queue.get(job.id)
        return ended.message if ended is not None else "gone"
    except JobLost:
        raise
    except (InputError, SettingsError) as error:
        return _fail(context, str(error), retry=False)
    except NotAvailable as error:
        return _fail(context, str(error), retry=True)
    except Exception as error:
        _log.exception("job %s failed", job.id)
        message = str(error) if isinstance(error, RamError) else f"{type(error).__name__}: {error}"[:500]
        return _fail(context, f"It failed unexpectedly ({message}); the worker's log tells where.", retry=False)


def _fail(context: JobContext, message: str, *, retry: bool) -> str:
    again = context.queue.fail(context.job, message, retry=retry)
    return f"{'waits for another attempt' if again else 'has failed'}: {message}"


def _function(kind: Kind) -> JobFunction:
    module, _, name = FUNCTIONS[kind].partition(":")
    function: JobFunction = getattr(import_module(module), name)
    return function
