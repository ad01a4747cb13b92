"""`ram-backend prelabel`: predictions for many tasks at once, here or by a worker."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ram_backend.cli.jobs import progress_of
from ram_backend.errors import InputError, NotAvailable
from ram_backend.settings import Settings, load_settings

if TYPE_CHECKING:
    from ram_backend.database.engine import Database
    from ram_backend.jobs.job import Job, JobResult, Which
    from ram_backend.jobs.service import JobService
    from ram_backend.worker.context import JobContext

LOOK_S = 0.5
NEWS_S = 5.0
"""Where nobody watches a terminal, how far it is is said so often."""

_notes = Console(stderr=True, highlight=False, soft_wrap=True)


def prelabel(
    project: Annotated[
        str, typer.Option("--project", help="Number of the project in Label Studio, or as `project list` says.")
    ],
    everything: Annotated[bool, typer.Option("--all", help="All tasks, those with annotations, too.")] = False,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Tasks without any annotation (default).")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Tasks whose image could not be had, and unlabelled ones without any."),
    ] = False,
    background: Annotated[bool, typer.Option("--background", help="Let a worker do it, and return at once.")] = False,
    per_second: Annotated[
        float | None, typer.Option("--per-second", min=0.001, help="At most so many tasks a second.")
    ] = None,
) -> None:
    """Push predictions of what is served now into Label Studio, for every task that has none.

    Label Studio asks the running server, a portion of tasks at a time. Stop it whenever you like and ask again: it goes
    on with what is missing, and each task ends with exactly one prediction of the version.
    """
    from ram_backend.database.migrate import open_migrated
    from ram_backend.jobs.job import PrelabelOptions
    from ram_backend.jobs.service import JobService
    from ram_backend.projects.keys import select

    which = _which(everything, unlabelled, retry_failed)
    settings = load_settings()
    database = open_migrated(settings)
    service = JobService(settings, database)
    service.queue.expire()
    key = select([each.key for each in service.projects.changes().projects], project)
    asked = service.push(key, PrelabelOptions(which, per_second=per_second), "asked for on the command line")
    if not background:
        _do(settings, database, service, asked.job.id)
        return
    known = "is queued" if asked.is_new else f"was {asked.job.state} already, and does this as well,"
    typer.echo(f"Pre-labelling of project {key} {known} as job {asked.job.id}. `ram-backend jobs` shows how far it is.")


def _which(everything: bool, unlabelled: bool, retry_failed: bool) -> tuple[Which, ...]:
    if everything and unlabelled:
        raise InputError("--all and --unlabelled contradict each other: give one of them.")
    found: list[Which] = ["all"] if everything else ["unlabelled"] if unlabelled else []
    if retry_failed:
        found.append("retry-failed")
    return tuple(found or ["unlabelled"])


def _do(settings: Settings, database: Database, service: JobService, job_id: str) -> None:
    """Does a job here, unless a worker has it: then follows what that does.

    Raises:
        NotAvailable: it has failed; says why.
    """
    from ram_backend.worker.run_job import carry_out

    queue = service.queue
    with _News() as news:
        here = _Here(news)
        while True:
            job = queue.get(job_id)
            if job is None:
                raise NotAvailable(f"Job {job_id} is gone from the database: ask again.")
            if not job.is_open:
                break
            if job.state == "requested":
                carry_out(settings, database, job_id, {"prelabel": here})
                job = queue.get(job_id) or job
            else:
                queue.expire()
            if job.is_open:
                said = progress_of(job.to_json())
                news.say(f"{said}: {job.message}" if job.message else said)
                time.sleep(LOOK_S)
    _tell(job, here)


def _tell(job: Job, here: _Here) -> None:
    if job.state == "failed":
        raise NotAvailable(f"Job {job.id} failed: {job.message}")
    typer.echo(job.message)
    seconds = (job.result or {}).get("seconds")
    took = sum(seconds.values()) if isinstance(seconds, dict) else 0.0
    tasks = int((job.result or {}).get("tasks", 0))
    if tasks and took:
        typer.echo(f"{took:.0f} s, {tasks / took:.1f} tasks a second{'' if here.did else ', by a worker'}.")


class _Here:
    """Does the job in this process."""

    def __init__(self, news: _News) -> None:
        self._news = news
        self.did = False

    def __call__(self, context: JobContext) -> JobResult | None:
        from ram_backend.worker.prelabel import prelabel as work

        self.did = True
        try:
            return work(context, gives_way=False, told=self._news.progress)
        except KeyboardInterrupt:
            said = "Stopped by hand. What is done stays; asking again goes on."
            context.queue.fail(context.job, said, retry=False)
            raise


class _News:
    """How far it is: one line that changes in a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._status = _notes.status("Looking for tasks")
        self._said = ("", 0.0)

    def __enter__(self) -> _News:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status.stop()

    def progress(self, stage: str, step: int, steps: int) -> None:
        self.say(f"{stage} {step:,}/{steps:,}" if steps else stage)

    def say(self, text: str) -> None:
        if _notes.is_terminal:
            self._status.update(text)
        elif text != self._said[0] and time.monotonic() - self._said[1] > NEWS_S:
            self._said = text, time.monotonic()
            _notes.print(text, markup=False)
