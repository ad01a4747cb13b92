"""What the page lists: projects with their latest job, and a project's thresholds with the layer that each is from."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import NamedTuple

from ram_backend.errors import RamError
from ram_backend.jobs.job import Job
from ram_backend.jobs.service import Waiting
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.server.model import await_shared
from ram_backend.server.services import Services
from ram_backend.versions.records import Served

JOBS = 1000
"""Latest jobs of all projects among which each project's is looked for."""

WAIT_S = 2.0
"""How long a view waits for a snapshot that is being built."""


class Row(NamedTuple):
    """One project in the list."""

    key: ProjectKey
    served: Served
    waiting: Waiting
    job: Job | None


class Threshold(NamedTuple):
    """A tag is ticked above `value`, in [0, 1], as the `source` says: "settings", a version or the bundle."""

    value: float
    source: str


def overview(services: Services) -> list[Row]:
    """All projects, by number. Waits for the database.

    Raises:
        DatabaseUnavailable: see the message.
    """
    jobs = services.jobs
    served = {each.key: each for each in jobs.versions.changes().served}
    latest = {job.key: job for job in sorted(jobs.table.jobs(limit=JOBS), key=lambda job: job.requested_at)}
    waiting = jobs.waiting(*(project.key for project in services.store.projects()))
    return [Row(key, served.get(key, Served(key)), each, latest.get(key)) for key, each in waiting.items()]


async def thresholds_in_force(services: Services, project: Project) -> tuple[dict[str, Threshold], str | None]:
    """By scored text, those of what is served now; and why there are none, in one line."""
    try:
        async with asyncio.timeout(WAIT_S):
            await services.identity()
            actual = services.swap.actual(project.key)
            if isinstance(actual, Future):
                return {}, "The project's version is still being loaded."
            ref = None if actual is None else actual.ref
            config = await await_shared(services.snapshots.resolve(project, project.label_config, ref))
            snapshot = await await_shared(services.snapshots.get(config, actual))
    except TimeoutError:
        return {}, "The project's tags are still being prepared: their thresholds follow."
    except RamError as error:
        return {}, str(error)
    source = snapshot.config.bundle.name if ref is None else ref.name
    found: dict[str, Threshold] = {}
    for name, control in config.controls.items():
        if (tagger := snapshot.taggers.get(name)) is None:
            continue
        for columns, given in zip(control.columns, control.thresholds, strict=True):
            for column in columns:
                value = float(tagger.thresholds[column]) if given is None else given
                found[control.texts[column]] = Threshold(value, source if given is None else "settings")
    return found, None
