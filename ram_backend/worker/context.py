"""The context of a job: what the function that does it works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ram_backend.database.engine import Database
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job, JobResult
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable
from ram_backend.worker.heartbeat import Heartbeat


@dataclass(frozen=True)
class JobContext:
    """What a job's function works with.

    Attributes:
        settings: of the worker.
        database: migrated.
        service: asks for further jobs.
        job: as it was claimed; what is published is published under its fencing number.
        heartbeat: told what is being done.
    """

    settings: Settings
    database: Database
    service: JobService
    job: Job
    heartbeat: Heartbeat

    @property
    def key(self) -> ProjectKey:
        """Of which project the job is."""
        return self.job.key

    @property
    def queue(self) -> JobQueue:
        """All jobs."""
        return self.service.queue

    @property
    def ledger(self) -> Ledger:
        """The corrections."""
        return self.service.ledger

    @property
    def versions(self) -> VersionTable:
        """Versions, and what is served."""
        return self.service.versions


JobFunction = Callable[[JobContext], JobResult | None]
"""Does a job. Returns what came of it; None: its row says so already."""
