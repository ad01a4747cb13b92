"""Pre-labelling, also the refresh after a swap: Label Studio retrieves one prediction per task, batch by batch (AIMD).

Label Studio asks the backend only for tasks that have none of the version which
`/setup` names (protocol section 2), so an attempt after a kill begins with what
is missing. A duplicate could come from a batch that is requested again, or from
somebody who opens the task meanwhile. So each batch is written to the job's row
before it is requested, the next attempt waits for it, and duplicates go.

A refresh after a swap is a pre-labelling of unlabelled tasks with a limit,
which waits for the swap first.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, LabelStudioUnreachable, NotAvailable, listed
from ram_backend.jobs.job import JobOptions, JobResult
from ram_backend.labelstudio.api_models import ConnectedBackend, TaskPredictions
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.worker.run_job import JobContext

SLICE_S = 60.0
OVERDUE_S = 5.0
"""After `SLICE_S` a job goes first that has been due for `OVERDUE_S`."""

SWAP_S = 60.0
"""Seconds that a server has to serve the new version."""

WAITING_S = 130.0
"""Seconds after which Label Studio has stored a batch or given it up: 1 + 3 + 100 s."""

BATCH_S = 15.0
"""If tasks per second are limited, a batch holds what is allowed in that time."""

MAX_EMPTY_SINGLES = 12
"""Single-task requests after which a job without any prediction ends."""

LOOK_S = 0.5
LATEST = 20
NAMED = 10
_VERSION = re.compile(r"-(v\d{4,9})-[0-9a-f]{12}$")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Tasks that Label Studio is asked for at once, `ago_s` seconds ago."""

    version: str
    tasks: tuple[int, ...]
    ago_s: float = 0.0


@dataclass
class PrelabelResult:
    """Result of a pre-labelling.

    Attributes:
        version: model version of the predictions.
        done: number of tasks that have got one.
        empty: tasks whose prediction is empty because their image was
            unavailable.
        missing: tasks that have none: their images are unavailable now.
        left: number of tasks beyond the limit.
        duplicates: number of duplicate predictions that were deleted.
    """

    version: str = ""
    done: int = 0
    empty: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    left: int = 0
    duplicates: int = 0

    @property
    def message(self) -> str:
        """For people."""
        if not self.done and not self.missing:
            return f"Nothing to do: all of these tasks have a prediction of {self.version}."
        found = [f"{self.done:,} tasks have got their prediction of {self.version}."]
        if self.empty:
            images = f"because their images were unavailable (tasks {listed(self.empty, NAMED)})"
            found.append(f"{len(self.empty):,} of them are empty, {images}.")
        if self.missing:
            images = f"because their images are unavailable now (tasks {listed(self.missing, NAMED)})"
            found.append(f"{len(self.missing):,} tasks have none, {images}.")
        if self.empty or self.missing:
            found.append("Asking with --retry-failed tries those again.")
        if self.left:
            found.append(f"{self.left:,} more unlabelled tasks exceed RAM_REFRESH_TASKS: they get theirs when opened.")
        return " ".join(found)


@dataclass(eq=False)
class Prelabeller:
    """One attempt of a pre-labelling, batch by batch.

    Attributes:
        api: of the project.
        options: which tasks.
        size: most tasks of a batch.
        progress: called with stage, step and steps; raises where it is to end.
        limit: most tasks; None: all.
        result: so far.
    """

    api: ProjectApi
    options: JobOptions
    size: int
    progress: Callable[[str, int, int], None]
    limit: int | None = None
    result: PrelabelResult = field(default_factory=PrelabelResult)

    def wait_for_inflight(self, batch: Batch) -> None:
        """Waits for the end of an earlier attempt's last batch."""
        began = time.monotonic()
        while any(each.current is None for each in self._look(batch)):
            waited = batch.ago_s + time.monotonic() - began
            if waited > WAITING_S:
                return
            self.progress("wait for the last attempt's batch", int(waited), int(WAITING_S))
            time.sleep(LOOK_S)

    def run(self) -> Iterator[Batch]:
        """Has Label Studio retrieve batch by batch.

        Yields:
            Each batch before it is requested: the caller records it, for a
            later attempt to `wait_for_inflight`, or stops here.

        Raises:
            NotAvailable: Label Studio or the backend don't answer, or store
                nothing: try again later.
            LabelStudioRefused: the project is not there, or has no backend.
        """
        api, rate, version = self.api, self.options.per_second, _served(self.api)
        largest = self.size if rate is None else max(1, min(self.size, int(rate * BATCH_S)))
        result = self.result = PrelabelResult(version, duplicates=self.result.duplicates)
        self.progress("list tasks", 0, 0)
        which = self.options.which
        failed = {each.task: each for each in api.failed(version)} if "retry-failed" in which else {}
        unasked = api.without(version, unlabelled="all" not in which) if which else ()
        lacking = dict.fromkeys(chain(failed, unasked, api.without(version, among=self.options.tasks)))
        left = deque(islice(lacking, self.limit))
        total, size = len(left), largest
        sent = alone = 0
        began = time.monotonic()
        result.left = len(lacking) - total
        while left:
            self.progress("predict", total - len(left), total)
            while rate is not None and (pause_s := began + sent / rate - time.monotonic()) > 0:
                time.sleep(min(pause_s, LOOK_S))
                self.progress("predict", total - len(left), total)
            batch = Batch(version, tuple(left.popleft() for _ in range(min(size, len(left)))))
            yield batch
            for empty in [failed.pop(task) for task in batch.tasks if task in failed]:
                for number in filter(None, (empty.current, *empty.duplicates)):  # to be asked again
                    api.delete_prediction(number)
            api.retrieve(batch.tasks)
            sent += len(batch.tasks)
            found = self._look(batch)
            missing = [each.task for each in found if each.current is None]
            result.done += len(found) - len(missing)
            result.empty += [each.task for each in found if each.failed]
            if not missing:
                size, alone = min(largest, size + 1), 0
            elif _served(api) != version:
                _log.info("project %s: another version is now served: restarting", api.project_id)
                yield from self.run()
                return
            elif len(batch.tasks) > 1:
                size = max(1, len(missing) // 2)
                left.extendleft(reversed(missing))
            else:
                result.missing += missing
                alone += 1
                left.rotate(-(len(left) // 2))  # unavailable images come in runs
                if alone >= MAX_EMPTY_SINGLES and not result.done and not api.has_any(version):
                    raise NotAvailable(
                        f"Label Studio stores no predictions of {version} for the tasks that it was asked to retrieve:"
                        " see in the backend's log what it answers, and that it answers within 100 s, or set"
                        " RAM_REFRESH_PORTION to fewer tasks. What is done stays; ask again to continue."
                    )
        self.progress("predict", total, total)

    def _look(self, batch: Batch) -> list[TaskPredictions]:
        """The predictions of a batch's tasks; duplicates are deleted."""
        found = self.api.of_version(batch.tasks, batch.version)
        for number in chain.from_iterable(each.duplicates for each in found):
            self.api.delete_prediction(number)
            self.result.duplicates += 1
        return found


def prelabel(context: JobContext, *, yields: bool = True) -> JobResult | None:
    """Does a pre-labelling, or a refresh, which without rights changes nothing.

    Returns:
        The result; None: another job goes first (`yields`), and a further
        attempt continues this one.

    Raises:
        JobLost: it is another worker's by now.
        NotAvailable, LabelStudioRefused: see `Prelabeller.run`.
    """
    try:
        return _prelabel(context, yields)
    except (LabelStudioUnauthorized, LabelStudioRefused) as error:
        if context.job.kind != "refresh":
            raise
        message = f"Predictions stay live, and the order by uncertainty is random: {str(error).rstrip('.')}."
        return JobResult(message, {"order": "random"})


def _prelabel(context: JobContext, yields: bool) -> JobResult | None:
    settings, table, began = context.settings, context.service.table, time.monotonic()
    is_refresh = context.job.kind == "refresh"
    _, label_studio = context.open_project()
    if label_studio is None:
        message = f"Nobody has named the Label Studio of project {context.key}: set LABEL_STUDIO_URL and"
        error = LabelStudioRefused if is_refresh else LabelStudioUnreachable
        raise error(f"{message} LABEL_STUDIO_API_KEY.")
    api = ProjectApi(label_studio, context.key.id)
    options, limit = JobOptions.of(context.job.options), None
    if is_refresh:
        options, limit = JobOptions(("unlabelled",)), settings.refresh_tasks
        _wait_for_swap(context, api)
    prelabeller = Prelabeller(api, options, settings.refresh_portion, progress=context.heartbeat, limit=limit)
    if (before := _last_batch(context)) is not None:
        prelabeller.wait_for_inflight(before)
    done = 0
    for batch in prelabeller.run():
        if yields and time.monotonic() - began > SLICE_S and table.due(OVERDUE_S):
            table.release(context.job, "Another job goes first; this one continues then.")
            return None
        checkpoint = {"version": batch.version, "portion": list(batch.tasks)}
        table.checkpoint(context.job, checkpoint, progressed=prelabeller.result.done != done)
        done = prelabeller.result.done
    context.heartbeat("tell Label Studio")
    prelabelled = prelabeller.result
    shown, order = _show(api, prelabelled.version, settings.basic_auth())
    result = {
        "model_version": prelabelled.version,
        "tasks": prelabelled.done,
        "empty": len(prelabelled.empty),
        "missing": len(prelabelled.missing),
        "left": prelabelled.left,
        "surplus_deleted": prelabelled.duplicates,
        "order": order,
    }
    return JobResult(f"{prelabelled.message} {shown}", result)


def _wait_for_swap(context: JobContext, api: ProjectApi) -> None:
    """Waits until Label Studio sees the backend serve what the database says.

    Raises:
        LabelStudioRefused: it doesn't in time.
    """
    served, began = context.service.versions.served(context.key), time.monotonic()
    while (waited := time.monotonic() - began) < SWAP_S:
        context.heartbeat("wait for the swap", int(waited), int(SWAP_S))
        backend = _backend(api)
        if backend is not None and backend.model_version:
            found = _VERSION.search(backend.model_version)
            if (found[1] if found else None) == served.version:
                return
        time.sleep(LOOK_S)
    raise LabelStudioRefused(
        f"Label Studio knows no backend of the project that serves {served.name}; see /ready of the server."
    )


def _last_batch(context: JobContext) -> Batch | None:
    """The last batch that any job of the project has asked for."""
    table, key = context.service.table, context.key
    jobs = table.jobs(key, kind="prelabel", limit=LATEST) + table.jobs(key, kind="refresh", limit=LATEST)
    checkpoints = [job.checkpoint for job in jobs if job.checkpoint]
    if not checkpoints or context.job.started_at is None:
        return None
    last = max(checkpoints, key=lambda each: str(each["at"]))
    ago = context.job.started_at - datetime.fromisoformat(last["at"])
    return Batch(last["version"], tuple(last["portion"]), max(0.0, ago.total_seconds()))


def _show(api: ProjectApi, version: str, login: tuple[str, str] | None) -> tuple[str, str]:
    """Makes the project show these predictions; returns a sentence, and an order."""
    backend = _backend(api)
    if backend is None or backend.model_version != version:
        return "Another version is served by now.", "as set"
    try:
        shown = api.show_version(backend, version, login=login)
    except LabelStudioRefused as error:
        return f"Predictions stay live, and the order by uncertainty is random: {error}", "random"
    if shown is None:
        order = "Label Studio shows these, the most uncertain first where the project orders its tasks so."
        return order, "by uncertainty"
    remedy = "choose the backend in its Settings > Annotation to see these."
    return f"The project still shows those of {shown!r}, as somebody has set: {remedy}", "as set"


def _backend(api: ProjectApi) -> ConnectedBackend | None:
    """The project's first backend: only that one predicts (protocol section 3)."""
    return next(iter(api.backends()), None)


def _served(api: ProjectApi) -> str:
    """The model version that the project's first backend serves.

    Raises:
        NotAvailable: Label Studio can't reach it.
        LabelStudioRefused: there is none.
    """
    backend = _backend(api)
    if backend is None:
        raise LabelStudioRefused(
            f"Project {api.project_id} has no backend in Label Studio: `ram-backend connect` connects this one."
        )
    if not backend.answers or not backend.model_version:
        error = f" ({backend.error})" if backend.error else ""
        raise NotAvailable(
            f"Label Studio can't reach the backend {backend.url}{error}: start it, or look at its log;"
            " `ram-backend doctor` checks the way."
        )
    return backend.model_version
