"""The list of projects: what each is served, what waits to be learned, its latest job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ram_backend.jobs.job import Job
from ram_backend.jobs.service import JobService
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.services import Services
from ram_backend.versions.records import Served

JOBS = 1000
"""Latest jobs of all projects among which each project's is looked for."""


@dataclass(frozen=True)
class Row:
    """One project in the list."""

    key: ProjectKey
    served: Served
    pending: int
    next_training: str
    job: Job | None

    @property
    def reference(self) -> str:
        """As it stands in the page's addresses."""
        return f"{self.key.id}.{self.key.created}"

    @property
    def number(self) -> int:
        """As Label Studio shows it."""
        return self.key.id

    @property
    def instance(self) -> str:
        """Address of its Label Studio."""
        return self.key.instance


def overview(services: Services, jobs: JobService) -> list[Row]:
    """All projects, by number. Waits for the database.

    Raises:
        DatabaseUnavailable: see the message.
    """
    served = {each.key: each for each in jobs.versions.changes().served}
    latest = _latest(jobs.table.jobs(limit=JOBS))
    events = jobs.ledger.last_events()
    rows = []
    for key in sorted(project.key for project in services.store.projects()):
        has_events = any(each.id == key.id and each.created == key.created for each in events)
        pending = jobs.pending(key) if has_events else 0
        rows.append(Row(key, served.get(key, Served(key)), pending, jobs.next_training(key), latest.get(key)))
    return rows


def _latest(jobs: Iterable[Job]) -> dict[ProjectKey, Job]:
    found: dict[ProjectKey, Job] = {}
    for job in jobs:
        if job.key not in found or job.requested_at > found[job.key].requested_at:
            found[job.key] = job
    return found
