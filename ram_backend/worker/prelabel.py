"""Jobs that push predictions: pre-labelling, and the refresh after a swap, which is one with a limit.

A kill leaves a note of the last portion, and the next attempt goes on from there. A refresh waits until the new version
is served, and asks for unlabelled tasks only; where it has no rights to, the project stays as it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, LabelStudioUnreachable, NotAvailable
from ram_backend.jobs.job import JobResult, PrelabelOptions
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.worker.push import Portion, Pushed, Pusher, first_backend
from ram_backend.worker.run_job import JobContext

SLICE_S = 60.0
"""Seconds that a worker asks for predictions before it lets another job go first that waits for one."""

OVERDUE_S = 5.0
SWAP_S = 60.0
"""Seconds that a server has to serve the new version."""

LOOK_S = 0.5
LATEST = 20
NAMED = 10
_VERSION = re.compile(r"-(v\d{4,9})-[0-9a-f]{12}$")


def prelabel(context: JobContext, *, gives_way: bool = True) -> JobResult | None:
    """Does a pre-labelling or a refresh.

    Args:
        context: of the job.
        gives_way: let other jobs go first that wait for a worker.

    Returns:
        The result; None: other jobs go first, and another attempt goes on with this one.

    Raises:
        JobLost: it is another worker's by now.
        NotAvailable: see `Pusher.run`.
        LabelStudioRefused: the project is not there, or has no backend.
    """
    is_refresh = context.job.kind == "refresh"
    try:
        return _push(context, is_refresh, gives_way)
    except (LabelStudioUnauthorized, LabelStudioRefused) as error:
        if is_refresh:
            message = f"Predictions stay live, and the order by uncertainty is random: {str(error).rstrip('.')}."
            return JobResult(message, {"order": "random"})
        if isinstance(error, LabelStudioUnauthorized):
            raise NotAvailable(f"{error} Predictions are pushed with that token.") from None
        raise


def _push(context: JobContext, is_refresh: bool, gives_way: bool) -> JobResult | None:
    settings, queue, began = context.settings, context.service.queue, time.monotonic()
    _, label_studio = context.open_project()
    if label_studio is None:
        message = f"Nobody has named the Label Studio of project {context.key}: set LABEL_STUDIO_URL and"
        error = LabelStudioRefused if is_refresh else LabelStudioUnreachable
        raise error(f"{message} LABEL_STUDIO_API_KEY.")
    api = ProjectApi(label_studio, context.key.id)
    options = PrelabelOptions(("unlabelled",)) if is_refresh else PrelabelOptions.of(context.job.options)
    if is_refresh:
        _wait_for_swap(context, api)
    limit = settings.refresh_tasks if is_refresh else None
    pusher = Pusher(api, options, settings.refresh_portion, progress=context.heartbeat, limit=limit)
    if (before := _last_portion(context)) is not None:
        pusher.settle(before)
    done = 0
    for portion in pusher.run():
        if gives_way and time.monotonic() - began > SLICE_S and queue.due(OVERDUE_S):
            queue.release(context.job, "Another job goes first; this one goes on then.")
            return None
        kept = {"version": portion.version, "portion": list(portion.tasks)}
        queue.checkpoint(context.job, kept, progressed=pusher.result.done != done)
        done = pusher.result.done
    context.heartbeat("tell Label Studio")
    pushed = pusher.result
    shown, order = _show(api, pushed.version, settings.basic_auth())
    result = {
        "model_version": pushed.version,
        "tasks": pushed.done,
        "empty": len(pushed.empty),
        "missing": len(pushed.missing),
        "left": pushed.left,
        "surplus_deleted": pushed.surplus,
        "order": order,
    }
    return JobResult(f"{_message(pushed)} {shown}", result)


def _wait_for_swap(context: JobContext, api: ProjectApi) -> None:
    """Waits until Label Studio knows the project's backend to serve what the database says.

    Raises:
        LabelStudioRefused: it doesn't in time.
    """
    served, began = context.service.versions.served(context.key), time.monotonic()
    while (waited := time.monotonic() - began) < SWAP_S:
        context.heartbeat("wait for the swap", int(waited), int(SWAP_S))
        backend = first_backend(api)
        if backend is not None and backend.model_version:
            found = _VERSION.search(backend.model_version)
            if (found[1] if found else None) == served.version:
                return
        time.sleep(LOOK_S)
    raise LabelStudioRefused(
        f"Label Studio knows no backend of the project that serves {served.name}; see /ready of the server."
    )


def _last_portion(context: JobContext) -> Portion | None:
    """The last portion that Label Studio was asked for, by whichever job of the project."""
    queue, key = context.service.queue, context.key
    jobs = queue.jobs(key, kind="prelabel", limit=LATEST) + queue.jobs(key, kind="refresh", limit=LATEST)
    kept = max((job.kept for job in jobs if job.kept), key=lambda kept: str(kept["at"]), default=None)
    if kept is None or context.job.started_at is None:
        return None
    ago = context.job.started_at - datetime.fromisoformat(kept["at"])
    return Portion(kept["version"], tuple(kept["portion"]), max(0.0, ago.total_seconds()))


def _show(api: ProjectApi, version: str, login: tuple[str, str] | None) -> tuple[str, str]:
    """Has the project show these predictions; returns a sentence for people, and the order of tasks."""
    backend = first_backend(api)
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
    return f"The project goes on showing those of {shown!r}, as somebody has set: {remedy}", "as set"


def _message(done: Pushed) -> str:
    if not done.done and not done.missing:
        return f"Nothing to do: all of these tasks have a prediction of {done.version}."
    message = f"{done.done:,} tasks have got their prediction of {done.version}."
    if done.empty:
        message += f" {len(done.empty):,} of them are empty, for their images could not be had ({_some(done.empty)})."
    if done.missing:
        message += f" {len(done.missing):,} tasks have none, for their images can't be had now ({_some(done.missing)})."
    if done.empty or done.missing:
        message += " Asking with --retry-failed tries those again."
    if done.left:
        message += f" {done.left:,} more are unlabelled than RAM_REFRESH_TASKS: they get theirs when they are opened."
    return message


def _some(tasks: Sequence[int]) -> str:
    named = ", ".join(map(str, tasks[:NAMED]))
    return f"tasks {named}, ..." if len(tasks) > NAMED else f"tasks {named}"
