"""Pre-labelling as a job: what a kill leaves, another attempt goes on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, LabelStudioUnreachable, NotAvailable
from ram_backend.jobs.job import Outcome
from ram_backend.jobs.keeping import keep, lay_aside
from ram_backend.jobs.prelabel_options import Wanted
from ram_backend.labelstudio.prelabel_api import PrelabelApi
from ram_backend.labelstudio.showing import LIVE, show_version, static
from ram_backend.worker.chunk_size import Pace
from ram_backend.worker.project_context import open_place
from ram_backend.worker.push import Asked, Prelabelled, Prelabelling, Surroundings
from ram_backend.worker.run_job import Task

SLICE_S = 60.0
"""So long a worker asks for predictions before it lets another job go first that waits for one."""

OVERDUE_S = 5.0
LATEST = 20
NAMED = 10

Told = Callable[[str, int, int], None]


def prelabel(task: Task, *, gives_way: bool = True, told: Told = lambda stage, step, steps: None) -> Outcome | None:
    """Does a pre-labelling.

    Args:
        task: the job.
        gives_way: let other jobs go first that wait for a worker.
        told: is told, too, what is being done.

    Returns:
        What came of it; None: it lets others go first, and will be gone on with.

    Raises:
        JobLost: it is another worker's by now.
        NotAvailable: see `Prelabelling.run`.
        LabelStudioRefused: the project is not there, or has no backend.
    """
    place = open_place(task.settings, task.database, task.claim.key)
    if place.label_studio is None:
        raise LabelStudioUnreachable(
            f"Nobody has named the Label Studio of project {task.claim.key}: set LABEL_STUDIO_URL and"
            " LABEL_STUDIO_API_KEY."
        )
    wanted = Wanted.of(task.claim.job.options)
    turn = _Turn(task, gives_way, told)
    api = PrelabelApi(place.label_studio, task.claim.key.id)
    work = Prelabelling(
        api,
        wanted,
        Pace(task.settings.refresh_portion, wanted.per_second),
        Surroundings(turn.progress, turn.note, turn.may_go_on),
    )
    try:
        done = work.run(_asked_before(task))
    except LabelStudioUnauthorized as error:
        raise NotAvailable(f"{error} Predictions are pushed with that token.") from None
    if not done:
        lay_aside(task.database, task.claim, "Another job goes first; this one goes on then.")
        return None
    task.pulse("tell Label Studio")
    return Outcome(f"{_message(work.result)} {_shown(api, work.result.version, task)}", _figures(work.result))


@dataclass
class _Turn:
    """One attempt of a worker."""

    task: Task
    gives_way: bool
    told: Told
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def progress(self, stage: str, step: int, steps: int) -> None:
        self.task.pulse(stage, step, steps)
        self.told(stage, step, steps)

    def note(self, version: str, portion: Sequence[int], progressed: bool) -> None:
        kept = {"version": version, "portion": list(portion)}
        keep(self.task.database, self.task.claim, kept, progressed=progressed)

    def may_go_on(self) -> bool:
        if not self.gives_way or time.monotonic() - self.began < SLICE_S:
            return True
        return not any(each.waited_s > OVERDUE_S for each in self.task.triggers.jobs.due())


def _asked_before(task: Task) -> Asked | None:
    """The last portion that Label Studio was asked for, by whichever job of the project."""
    jobs = task.triggers.jobs.jobs(task.claim.key, kind="prelabel", limit=LATEST)
    kept = max((job.kept for job in jobs if job.kept), key=lambda kept: str(kept["at"]), default=None)
    if kept is None or task.claim.job.started_at is None:
        return None
    ago = task.claim.job.started_at - datetime.fromisoformat(kept["at"])
    return Asked(str(kept["version"]), tuple(kept["portion"]), max(0.0, ago.total_seconds()))


def _shown(api: PrelabelApi, version: str, task: Task) -> str:
    """Has the project show these predictions; what people are told about it."""
    backend = next(iter(api.backends()), None)
    if backend is None or backend.model_version != version:
        return "Another version is served by now."
    try:
        shown = show_version(api, backend, version, login=task.settings.basic_auth())
    except LabelStudioRefused as error:
        return f"Predictions stay live, and the order by uncertainty is random: {error}"
    return LIVE if shown is None else static(shown)


def _message(done: Prelabelled) -> str:
    if not done.done and not done.missing:
        return f"Nothing to do: all of these tasks have a prediction of {done.version}."
    said = f"{done.done:,} tasks have got their prediction of {done.version}."
    if done.empty:
        said += f" {len(done.empty):,} of them are empty, for their images could not be had ({_some(done.empty)})."
    if done.missing:
        said += f" {len(done.missing):,} tasks have none, for their images can't be had now ({_some(done.missing)})."
    if done.empty or done.missing:
        said += " Asking with --retry-failed tries those again."
    return said


def _some(tasks: Sequence[int]) -> str:
    named = ", ".join(map(str, tasks[:NAMED]))
    return f"tasks {named}, ..." if len(tasks) > NAMED else f"tasks {named}"


def _figures(done: Prelabelled) -> dict[str, object]:
    return {
        "model_version": done.version,
        "tasks": done.done,
        "empty": len(done.empty),
        "missing": len(done.missing),
        "surplus_deleted": done.surplus,
    }
