"""One job from its claim to its end, as RQ calls it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name

from ram_backend.database.engine import Database, open_database
from ram_backend.errors import (
    InputError,
    JobLost,
    LabelStudioUnreachable,
    NotAvailable,
    ProjectNotFound,
    RamError,
    SettingsError,
)
from ram_backend.feedback.reconcile import label_studio_of
from ram_backend.jobs.job import Job, JobKind, JobResult
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.logs import with_request_id
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.settings import Settings, load_settings
from ram_backend.worker.heartbeat import Heartbeat

EXIT_LEASE_LOST = 70
"""Exit status of a process whose lease was lost."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobContext:
    """Arguments of a job's function; `heartbeat` takes stage, step and steps."""

    settings: Settings
    database: Database
    service: JobService
    job: Job
    heartbeat: Heartbeat

    @property
    def key(self) -> ProjectKey:
        """The job's project."""
        return self.job.key

    def open_project(self) -> tuple[Project, LabelStudio | None]:
        """The project's row, and its Label Studio; None: nobody has named it.

        Raises:
            ProjectNotFound: there is no such row any more.
            SettingsError: the address of Label Studio, or
                RAM_ALLOWED_IMAGE_HOSTS, can't be used.
        """
        changes = self.service.projects.changes()
        project = next((each for each in changes.projects if each.key == self.key), None)
        if project is None:
            raise ProjectNotFound(f"There is no project {self.key} any more; see `ram-backend project list`.")
        try:
            return project, label_studio_of(self.settings, project, trusted_host=changes.trusted_host)
        except LabelStudioUnreachable:
            return project, None


JobFunction = Callable[[JobContext], JobResult | None]
"""Does a job; returns its result; None: its row has that already."""

FUNCTIONS: dict[JobKind, JobFunction | str] = {
    "train": "ram_backend.worker.train:train",
    "refresh": "ram_backend.worker.prelabel:prelabel",
    "reconcile": "ram_backend.worker.training_data:reconcile_ledger",
    "prelabel": "ram_backend.worker.prelabel:prelabel",
    "engine": "ram_backend.worker.engine:engine",
    "finetune": "ram_backend.worker.finetune:finetune_project",
}
"""Function of each kind of job, or its name, for a late import."""


def run_job(job_id: str) -> str:
    """Does a job with the environment's settings, for RQ."""
    settings = load_settings()
    database = open_database(settings)  # the worker has seen to its migrations
    try:
        return claim_and_run(settings, database, job_id, on_end=lambda reason: os._exit(EXIT_LEASE_LOST))
    finally:
        database.close()


def claim_and_run(
    settings: Settings,
    database: Database,
    job_id: str,
    functions: Mapping[JobKind, JobFunction | str] = FUNCTIONS,
    *,
    on_end: Callable[[str], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> str:
    """Does a job, if it is due; `on_end` and `on_progress`: see `Heartbeat`.

    Returns:
        The outcome, in one line for the log. Errors of the job are written to
        its row, not raised.

    Raises:
        DatabaseUnavailable: the claim or the end can't be written: the lease
            runs out.
    """
    service = JobService(settings, database)
    job = service.table.claim(job_id, f"{socket.gethostname()}/{os.getpid()}")
    if job is None:
        message = f"job {job_id} is done, taken, or not due"
        _log.info("%s", message)
        return message
    with with_request_id(job.request_id):
        heartbeat = Heartbeat(settings, service.table, job, on_end=on_end, on_progress=on_progress)
        context = JobContext(settings, database, service, job, heartbeat)
        try:
            message = f"job {job.id}: {_run(context, functions[job.kind])}"
        except JobLost as error:
            _log.info("%s", error)
            return str(error)
        _log.info("%s", message, extra={"fields": {"job": job.id, "kind": job.kind, "project": str(job.key)}})
    if job.kind == "train":
        service.request_due_trainings(job.key)
    return message


def _run(context: JobContext, function: JobFunction | str) -> str:
    """Does a claimed job; returns the message of its end."""
    job, table = context.job, context.service.table
    _log.info("%s of project %s begins: %s (job %s)", job.kind, job.key, job.reason, job.id)
    retry = False
    try:
        work: JobFunction = resolve_name(function) if isinstance(function, str) else function
        with context.heartbeat:
            result = work(context)
        if result is not None:
            table.finish(job, result)
        ended = table.get(job.id)
        return "gone" if ended is None else ended.message
    except JobLost:
        raise
    except (InputError, SettingsError, NotAvailable) as error:
        message, retry = str(error), isinstance(error, NotAvailable)
    except KeyboardInterrupt:
        table.fail(job, "Stopped by hand. What is done stays; asking again continues.", retry=False)
        raise
    except Exception as error:
        _log.exception("job %s failed", job.id)
        message = str(error) if isinstance(error, RamError) else f"{type(error).__name__}: {error}"[:500]
        message = f"It failed unexpectedly ({message}); the worker's log tells where."
    again = table.fail(job, message, retry=retry)
    return f"{'waits for another attempt' if again else 'has failed'}: {message}"
