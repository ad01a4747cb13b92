"""After a swap: fresh predictions for unlabelled tasks, and Label Studio told which ones to show.

Label Studio looks for predictions of the version that the *project* names, and asks the backend only while that is the
backend's *title* (protocol sections 2 and 5). So both are set to the concrete model version: predictions stay live, and
the order by uncertainty works. A project that names the title goes along with it when it changes, in one step of Label
Studio's; one where somebody has chosen another version by hand is left alone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, NotAvailable
from ram_backend.jobs.job import Outcome
from ram_backend.labelstudio.project_api import ConnectedBackend, ProjectApi
from ram_backend.labelstudio.showing import LIVE, show_version, static
from ram_backend.worker.project_context import open_place
from ram_backend.worker.run_job import Task

SWAP_S = 60.0
"""A server has so long to serve the new version."""

LOOK_S = 0.5
_VERSION = re.compile(r"-(v\d{4,9})-[0-9a-f]{12}$")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refreshed:
    """How far it came.

    Attributes:
        model_version: what Label Studio knows the backend to serve.
        asked: tasks that predictions were asked for.
        left: unlabelled tasks beyond the limit of the settings.
        failed: portions for which no prediction of that version was stored.
    """

    model_version: str
    asked: int
    left: int
    failed: int


def refresh(task: Task) -> Outcome:
    """Does a refresh.

    Raises:
        JobLost: it is another worker's by now.
        LabelStudioUnreachable: it doesn't answer now.
    """
    place = open_place(task.settings, task.database, task.claim.key)
    if place.api is None:
        return _cannot("nobody has named its Label Studio")
    try:
        return _refresh(task, place.api)
    except LabelStudioUnauthorized as error:
        return _cannot(str(error).rstrip("."))
    except LabelStudioRefused as error:
        return _cannot(str(error).rstrip("."))


def _refresh(task: Task, api: ProjectApi) -> Outcome:
    served = task.triggers.versions.served(task.claim.key)
    task.pulse("wait for the swap")
    backend = _swapped(task, api, served.version)
    if backend is None or backend.model_version is None:
        return _cannot(
            f"Label Studio knows no backend of the project that serves {served.name}; see /ready of the server"
        )
    version = backend.model_version
    done = _retrieve(task, api, version)
    task.pulse("tell Label Studio")
    shown = show_version(api, backend, version, login=task.settings.basic_auth())
    if shown is not None:
        return Outcome(f"{_message(done)} {static(shown)}", {**_figures(done), "order": "as set"})
    return Outcome(f"{_message(done)} {LIVE}", {**_figures(done), "order": "by uncertainty"})


def _swapped(task: Task, api: ProjectApi, served: str | None) -> ConnectedBackend | None:
    """The project's first backend, as soon as Label Studio knows it to serve that version; None: not in time.

    Only the first backend of a project predicts (protocol section 3).
    """
    began = time.monotonic()
    while True:
        backend = next(iter(api.backends()), None)
        if backend is not None and backend.model_version and _names(backend.model_version, served):
            return backend
        waited = time.monotonic() - began
        if waited > SWAP_S:
            return None
        task.pulse("wait for the swap", int(waited), int(SWAP_S))
        time.sleep(LOOK_S)


def _names(model_version: str, served: str | None) -> bool:
    """Whether a model version is of that version of the project; None: of the bundle's base."""
    found = _VERSION.search(model_version)
    return (found[1] if found else None) == served


def _retrieve(task: Task, api: ProjectApi, version: str) -> Refreshed:
    """Has Label Studio ask for predictions of unlabelled tasks, in portions that it has the patience for."""
    limit, size = task.settings.refresh_tasks, task.settings.refresh_portion
    numbers = list(islice(api.unlabelled(), limit + 1))
    left = len(numbers) > limit
    numbers = numbers[:limit]
    failed = 0
    for start in range(0, len(numbers), size):
        portion = numbers[start : start + size]
        task.pulse("retrieve predictions", start, len(numbers))
        api.retrieve(portion)
        if not _has_predictions(api, portion, version):
            failed += 1
            if failed > 1 and failed * size > start:
                raise NotAvailable(
                    f"Label Studio stores no predictions of {version} for the tasks that it was asked to retrieve: see"
                    " that the backend answers it within 100 s, or set RAM_REFRESH_PORTION to fewer tasks at a time."
                )
    return Refreshed(version, len(numbers), int(left), failed)


def _has_predictions(api: ProjectApi, portion: Sequence[int], version: str) -> bool:
    """Whether the last task of a portion that still is there has a prediction of the version."""
    task = next(iter(api.tasks(portion[-1:])), None)
    return task is None or any(each.get("model_version") == version for each in task.predictions)


def _message(done: Refreshed) -> str:
    said = f"{done.asked} unlabelled tasks have predictions of {done.model_version}."
    if done.left:
        said += " More tasks are unlabelled than RAM_REFRESH_TASKS: the others get theirs when they are opened."
    if done.failed:
        said += f" {done.failed} portions failed: their tasks get theirs when they are opened."
    return said


def _figures(done: Refreshed) -> dict[str, Any]:
    return {"model_version": done.model_version, "tasks": done.asked, "failed_portions": done.failed}


def _cannot(reason: str) -> Outcome:
    message = f"Predictions stay live, and the order by uncertainty is random: {reason}."
    return Outcome(message, {"order": "random"})
