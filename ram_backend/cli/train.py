"""`ram-backend train`: ask for a training from the command line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ram_backend.cli.jobs import progress_of
from ram_backend.errors import NotAvailable
from ram_backend.settings import load_settings

if TYPE_CHECKING:
    from ram_backend.jobs.queue import JobQueue

LOOK_S = 0.5
LONELY_S = 15.0
"""A job that nobody has taken for so long probably has no worker."""

_notes = Console(stderr=True, highlight=False, soft_wrap=True)


def train(
    project: Annotated[str, typer.Argument(help="Number of the project in Label Studio, or as `project list` says.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done, and say what came of it.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the list of jobs.")] = "asked for on the command line",
) -> None:
    """Learn from a project's corrections now, whatever their number. A worker does it."""
    from ram_backend.database.migrate import open_migrated
    from ram_backend.jobs.service import JobService
    from ram_backend.projects.keys import select

    settings = load_settings()
    database = open_migrated(settings)
    service = JobService(settings, database)
    key = select([each.key for each in service.projects.changes().projects], project)
    asked = service.train(key, reason)
    known = "is queued" if asked.is_new else f"was {asked.job.state} already"
    typer.echo(f"Training of project {key} {known} as job {asked.job.id}.")
    if wait:
        _wait(service.queue, asked.job.id)


def _wait(queue: JobQueue, job_id: str) -> None:
    began, warned = time.monotonic(), False
    with _notes.status("Waiting for a worker") as status:
        while True:
            job = queue.get(job_id)
            if job is None:
                raise NotAvailable(f"Job {job_id} is gone from the database: ask again.")
            if not job.is_open:
                break
            status.update(progress_of(job.to_json()))
            if job.attempt == 0 and not warned and time.monotonic() - began > LONELY_S:
                warned = True
                _notes.print("No worker has taken it yet: is one running? `ram-backend worker` starts one.")
            time.sleep(LOOK_S)
    if job.state == "failed":
        raise NotAvailable(f"Job {job_id} failed: {job.message}")
    typer.echo(job.message)
