"""`ram-backend jobs`, `train`, `prelabel` and `schedule`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from ram_backend.cli.opening import OpenProject, ProjectArgument, open_project
from ram_backend.cli.output import JsonLines, notes, print_json, print_rows, progress
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import NotAvailable
from ram_backend.jobs.job import Job, JobOptions, Which
from ram_backend.jobs.table import JobTable
from ram_backend.settings import load_settings

app = typer.Typer(help="Jobs at fixed times: set, list, remove.", no_args_is_help=True)

Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="train, reconcile (with Label Studio) or refresh (predictions).")
]

LOOK_S = 0.5
UNTAKEN_S = 15.0
"""A job that is waiting longer than this probably has no worker."""


def jobs(
    project: Annotated[str | None, typer.Argument(metavar="PROJECT", help="Only of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    as_json: JsonLines = False,
) -> None:
    """List trainings, pre-labellings and what follows them: open ones first, then the latest."""
    opened = None if project is None else open_project(project)
    database = opened.database if opened else open_migrated(load_settings())
    found = JobTable(database).jobs(opened.key if opened else None, limit=limit)
    if as_json:
        print_json(*(job.to_json() for job in found))
        return
    if not found:
        typer.echo("No jobs yet: press Start Training in Label Studio, or use `ram-backend train PROJECT`.")
    for job in found:
        requested = f"{job.requested_at:%Y-%m-%d %H:%M:%S}, {job.reason}"
        typer.echo(f"{job.short}  {job.kind} of project {job.key}: {progress_of(job)}  ({requested})")
        if job.message:
            typer.echo(f"    {job.message}")


def train(
    project: ProjectArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done, and print its result.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the list of jobs.")] = "asked for on the command line",
) -> None:
    """Learn from a project's corrections now, whatever their number. A worker does it."""
    request_training(open_project(project), reason, wait=wait)


def request_training(opened: OpenProject, reason: str, *, wait: bool, bundle: str | None = None) -> None:
    """Requests a training, on `bundle` if given, and may wait for it."""
    request = opened.jobs.request_training(opened.key, reason, bundle=bundle)
    known = "is queued" if request.is_new else f"was {request.job.state} already"
    typer.echo(f"Training of project {opened.key} {known} as job {request.job.short}.")
    if not wait:
        return
    table, job = opened.jobs.table, request.job
    if job.state == "running":  # it may have learned from less: another one follows
        with suppress(NotAvailable):
            _follow(table, job.id)
        (job,) = table.jobs(opened.key, kind="train", limit=1)
    typer.echo(_follow(table, job.id).message)


def prelabel(
    project: ProjectArgument,
    everything: Annotated[bool, typer.Option("--all", help="All tasks, those with annotations, too.")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Tasks whose image was unavailable, and unlabelled ones without any."),
    ] = False,
    background: Annotated[bool, typer.Option("--background", help="Let a worker do it, and return at once.")] = False,
    per_second: Annotated[
        float | None, typer.Option("--per-second", min=0.001, help="At most this many tasks a second.")
    ] = None,
) -> None:
    """Push predictions of what is served now into Label Studio, for every unlabelled task that has none.

    Label Studio asks the running server, a portion of tasks at a time. Stop it
    whenever you like and ask again: it continues with what is missing, and each
    task ends with exactly one prediction of the version.
    """
    given: dict[Which, bool] = {"all": everything, "retry-failed": retry_failed}
    which: tuple[Which, ...] = tuple(name for name, wanted in given.items() if wanted) or ("unlabelled",)
    opened = open_project(project)
    opened.jobs.table.expire()
    options = JobOptions(which, per_second=per_second)
    request = opened.jobs.request_prelabelling(opened.key, options, "asked for on the command line")
    job = request.job
    if not background:
        _prelabel_here(opened, job.id)
        return
    known = "is queued" if request.is_new else f"was {job.state} already, and does this as well,"
    typer.echo(
        f"Pre-labelling of project {opened.key} {known} as job {job.short}. `ram-backend jobs` shows how far it is."
    )


@app.command("set")
def set_(
    project: ProjectArgument,
    kind: Kind,
    cron: Annotated[str, typer.Argument(metavar="CRON", help='Such as "30 3 * * 1-5": 3:30 from Monday to Friday.')],
    zone: Annotated[str, typer.Option(help="Time zone of that, such as Europe/Berlin.")] = "UTC",
) -> None:
    """Request a job of a kind at fixed times; each kind has one schedule. A worker does it."""
    opened = open_project(project)
    schedule = opened.jobs.schedules.set(opened.key, kind, cron, zone)
    typer.echo(f"Project {opened.key}: {schedule.kind} at {schedule.local_due} next, by a worker that is running then.")


@app.command("list")
def list_(project: ProjectArgument, as_json: JsonLines = False) -> None:
    """List a project's schedules with their next times."""
    opened = open_project(project)
    found = opened.jobs.schedules.schedules(opened.key)
    if as_json:
        for each in found:
            facts = {"kind": each.kind, "cron": each.cron, "zone": each.zone}
            print_json({**facts, "due": each.due_at.isoformat()})
    elif found:
        rows = [[each.kind, each.cron, each.zone, each.local_due] for each in found]
        print_rows(("kind", "cron", "zone", "next"), rows)
    else:
        typer.echo(f'Nothing is scheduled: `ram-backend schedule set {opened.key.id} train "0 3 * * *"` does it.')


@app.command()
def remove(project: ProjectArgument, kind: Kind) -> None:
    """Remove the schedule of a kind."""
    opened = open_project(project)
    opened.jobs.schedules.remove(opened.key, kind)
    typer.echo(f"Project {opened.key}: {kind} is not scheduled any more.")


def _prelabel_here(opened: OpenProject, job_id: str) -> None:
    """Does a job in this process, or follows the worker that has it."""
    from ram_backend.worker.prelabel import prelabel as work
    from ram_backend.worker.run_job import claim_and_run

    function = partial(work, yields=False)

    def run(show: Callable[..., None]) -> None:
        claim_and_run(opened.settings, opened.database, job_id, {"prelabel": function}, on_progress=show)

    typer.echo(_follow(opened.jobs.table, job_id, run).message)


def _follow(table: JobTable, job_id: str, run: Callable[[Callable[..., None]], None] | None = None) -> Job:
    """Shows a job until it has ended; `run`, given the display, does a waiting one.

    Raises:
        NotAvailable: it has failed, or is gone.
    """
    warn_at = time.monotonic() + UNTAKEN_S if run is None else math.inf
    with progress("Waiting") as show:
        while True:
            job = table.get(job_id)
            if job is not None and job.state == "requested" and run is not None:
                run(show)
                job = table.get(job_id)
            if job is None:
                raise NotAvailable(f"Job {job_id[:8]} is gone from the database: ask again.")
            if job.state == "failed":
                raise NotAvailable(f"Job {job.short} failed: {job.message}")
            if not job.is_open:
                return job
            show(f"{progress_of(job)}: {job.message}" if job.message else progress_of(job))
            if job.attempt == 0 and time.monotonic() > warn_at:
                warn_at = math.inf
                notes.print("No worker has taken it yet: is one running? `ram-backend worker` starts one.")
            time.sleep(LOOK_S)
            table.expire()


def progress_of(job: Job) -> str:
    """State, verdict, or stage and step, in a few words."""
    if job.state == "requested":
        return f"waiting after attempt {job.attempt}" if job.attempt else "waiting for a worker"
    if job.state != "running":
        return f"{job.state}: {job.verdict.replace('_', ' ')}" if job.verdict else job.state
    stage = job.stage or "beginning"
    return f"{stage} {job.step}/{job.steps}" if job.steps else stage
