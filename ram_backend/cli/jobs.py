"""`ram-backend jobs`, `train` and `prelabel`: jobs are listed, asked for, and followed to their end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.status import Status

from ram_backend.cli.opening import OpenProject, ProjectArgument, ProjectOption, open_project
from ram_backend.cli.output import JsonLines, notes, print_json
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, NotAvailable
from ram_backend.settings import load_settings

if TYPE_CHECKING:
    from ram_backend.jobs.job import Job, Which
    from ram_backend.jobs.queue import JobQueue

LOOK_S = 0.5
NEWS_S = 5.0
"""Seconds between two lines of progress where no terminal shows it."""

UNTAKEN_S = 15.0
"""A job that is waiting longer than this probably has no worker."""


def jobs(
    project: Annotated[
        str | None, typer.Option(help="Only of this project: its number, or as `project list` writes it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    as_json: JsonLines = False,
) -> None:
    """List trainings, pre-labellings and what follows them: open ones first, then the latest."""
    from ram_backend.jobs.queue import JobQueue

    opened = None if project is None else open_project(project)
    database = opened.database if opened else open_migrated(load_settings())
    rows = [job.to_json() for job in JobQueue(database).jobs(opened.key if opened else None, limit=limit)]
    if as_json:
        print_json(*rows)
        return
    if not rows:
        typer.echo("No jobs yet: press Start Training in Label Studio, or use `ram-backend train PROJECT`.")
    for row in rows:
        requested = f"{row['requested_at'][:19].replace('T', ' ')}, {row['reason']}"
        typer.echo(f"{row['job'][:8]}  {row['kind']} of project {row['project']}: {progress_of(row)}  ({requested})")
        if row["message"]:
            typer.echo(f"    {row['message']}")


def train(
    project: ProjectArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done, and print its result.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the list of jobs.")] = "asked for on the command line",
) -> None:
    """Learn from a project's corrections now, whatever their number. A worker does it."""
    opened = open_project(project)
    request = opened.jobs.train(opened.key, reason)
    known = "is queued" if request.is_new else f"was {request.job.state} already"
    typer.echo(f"Training of project {opened.key} {known} as job {request.job.id}.")
    if not wait:
        return
    warn_at = time.monotonic() + UNTAKEN_S
    with notes.status("Waiting for a worker") as status:

        def show(job: Job) -> None:
            nonlocal warn_at
            status.update(progress_of(job.to_json()))
            if job.attempt == 0 and time.monotonic() > warn_at:
                warn_at = math.inf
                notes.print("No worker has taken it yet: is one running? `ram-backend worker` starts one.")
            time.sleep(LOOK_S)

        job = _follow(opened.jobs.queue, request.job.id, show)
    typer.echo(job.message)


def prelabel(
    project: ProjectOption,
    everything: Annotated[bool, typer.Option("--all", help="All tasks, those with annotations, too.")] = False,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Tasks without any annotation (default).")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Tasks whose image could not be had, and unlabelled ones without any."),
    ] = False,
    background: Annotated[bool, typer.Option("--background", help="Let a worker do it, and return at once.")] = False,
    per_second: Annotated[
        float | None, typer.Option("--per-second", min=0.001, help="At most this many tasks a second.")
    ] = None,
) -> None:
    """Push predictions of what is served now into Label Studio, for every task that has none.

    Label Studio asks the running server, a portion of tasks at a time. Stop it
    whenever you like and ask again: it goes on with what is missing, and each
    task ends with exactly one prediction of the version.
    """
    from ram_backend.jobs.job import PrelabelOptions

    if everything and unlabelled:
        raise InputError("--all and --unlabelled contradict each other: give one of them.")
    given: dict[Which, bool] = {"all": everything, "unlabelled": unlabelled, "retry-failed": retry_failed}
    which: tuple[Which, ...] = tuple(name for name, wanted in given.items() if wanted) or ("unlabelled",)
    opened = open_project(project)
    opened.jobs.queue.expire()
    options = PrelabelOptions(which, per_second=per_second)
    request = opened.jobs.push(opened.key, options, "asked for on the command line")
    job = request.job
    if not background:
        _prelabel_here(opened, job.id)
        return
    known = "is queued" if request.is_new else f"was {job.state} already, and does this as well,"
    typer.echo(
        f"Pre-labelling of project {opened.key} {known} as job {job.id}. `ram-backend jobs` shows how far it is."
    )


def _prelabel_here(opened: OpenProject, job_id: str) -> None:
    """Does a job in this process, or follows the worker that has it."""
    from ram_backend.worker.prelabel import prelabel as work
    from ram_backend.worker.run_job import carry_out, worker_name

    queue = opened.jobs.queue
    run = partial(work, gives_way=False)

    def step(job: Job) -> None:
        if job.state == "requested":
            carry_out(opened.settings, opened.database, job_id, {"prelabel": run}, on_progress=progress.update)
            job = queue.get(job_id) or job
        else:
            queue.expire()
        if job.is_open:
            text = progress_of(job.to_json())
            progress.show(f"{text}: {job.message}" if job.message else text)
            time.sleep(LOOK_S)

    with notes.status("Looking for tasks") as status:
        progress = _Progress(status)
        job = _follow(queue, job_id, step)
    typer.echo(job.message)
    result = job.result or {}
    took, tasks = sum(result.get("seconds", {}).values()), result.get("tasks", 0)
    if tasks and took:
        by = "" if job.worker == worker_name(os.getpid()) else ", by a worker"
        typer.echo(f"{took:.0f} s, {tasks / took:.1f} tasks a second{by}.")


class _Progress:
    """Progress of a job: in a terminal one line, elsewhere a line every few seconds."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._printed = ("", 0.0)

    def update(self, stage: str, step: int, steps: int) -> None:
        self.show(f"{stage} {step:,}/{steps:,}" if steps else stage)

    def show(self, text: str) -> None:
        if notes.is_terminal:
            self._status.update(text)
        elif text != self._printed[0] and time.monotonic() - self._printed[1] > NEWS_S:
            self._printed = text, time.monotonic()
            notes.print(text, markup=False)


def _follow(queue: JobQueue, job_id: str, step: Callable[[Job], None]) -> Job:
    """Calls `step` with a job until it has ended; `step` waits.

    Raises:
        NotAvailable: it has failed, or is gone.
    """
    while True:
        job = queue.get(job_id)
        if job is None:
            raise NotAvailable(f"Job {job_id} is gone from the database: ask again.")
        if job.state == "failed":
            raise NotAvailable(f"Job {job_id} failed: {job.message}")
        if not job.is_open:
            return job
        step(job)


def progress_of(job: Mapping[str, Any]) -> str:
    """State, verdict, or stage and step, in a few words."""
    if job["state"] == "requested":
        return "waiting for a worker" if job["attempt"] == 0 else f"waiting after attempt {job['attempt']}"
    if job["state"] != "running":
        verdict = job["verdict"]
        return f"{job['state']}: {verdict.replace('_', ' ')}" if verdict else str(job["state"])
    stage = str(job["stage"] or "beginning")
    return f"{stage} {job['step']}/{job['steps']}" if job["steps"] else stage
