"""Request handlers of `/setup`, `/predict` and `/webhook`, without HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from ram_backend.errors import DatabaseUnavailable, InputError, NotAvailable, QuotaExceeded, RamError
from ram_backend.feedback.events import events_of
from ram_backend.jobs.job import JobOptions
from ram_backend.labelstudio.client import connect_command, open_label_studio
from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, Task, WebhookRequest
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project, Setup
from ram_backend.server.model import await_shared
from ram_backend.server.predict import predict_tasks
from ram_backend.server.services import Services
from ram_backend.server.snapshots import Snapshot

TOKEN_WAIT_S = 1.5
"""Wait of `/setup` for the test of a new token: Label Studio waits 3 s."""

HAND_OVER_S = 5.0
"""Wait of a late request for the database: in all less than 100 s."""

MAX_PROJECT_BYTES = 500_000_000
"""Of a project's events; reconciliation gets what is refused."""

UNKNOWN = "No /setup has named that project, so nothing was done: connect it in Label Studio, Settings > Model."

_log = logging.getLogger(__name__)


async def setup(services: Services, request: SetupRequest) -> str:
    """Takes in what `/setup` brings; returns the predictions' model version.

    Raises:
        InputError: a field can't be used.
        NotAvailable: the bundle can't be opened, or no snapshot be built.
    """
    cache, swap = services.project_cache, services.swap
    key = cache.key(request.project, request.hostname)
    known = cache.get(key)
    token = await _accepted_token(services, key, request.access_token)
    config_xml, params = request.label_config, request.extra_params
    project = cache.upsert(Setup.read(key, label_config=config_xml, access_token=token, extra_params=params))
    connection = cache.connection(project)
    if known is None and connection.base_url and not connection.trusted:
        _log.warning(
            "Project %s: only /setup named %s, so images are fetched with that request's token, and only from"
            " public addresses. Where that can't work, %s.",
            *(project.key, connection.base_url, connect_command(project.key.id)),
        )

    await services.identity()
    actual = swap.actual(project.key)  # begins to load it
    version = swap.ref(project.key) if isinstance(actual, Future) else actual
    config = await await_shared(services.snapshots.resolve(project, request.label_config, version))
    if not isinstance(actual, Future):
        snapshot = services.snapshots.get(config, actual)  # begins to build it
        if snapshot.done() and isinstance(error := snapshot.exception(), RamError):
            raise error
    return config.model_version


async def _accepted_token(services: Services, key: ProjectKey, token: str | None) -> str | None:
    """The token that `/setup` brings; None: Label Studio doesn't take it."""
    connection = services.project_cache.candidate_connection(key, token)
    if connection is None or connection.base_url is None:
        return token
    quick = services.settings.model_copy(update={"fetch_seconds": TOKEN_WAIT_S})
    with suppress(RamError), closing(open_label_studio(quick, connection.base_url, connection.token)) as label_studio:
        if await asyncio.to_thread(label_studio.whoami):
            return token
    _log.warning("Project %s: Label Studio doesn't take the new token of /setup; the old one stays.", key)
    return None


async def predict(services: Services, request: PredictRequest) -> dict[str, Any]:
    """Answers `/predict`, by one snapshot: {"results": [...], "model_version": "..."}.

    Raises:
        InputError: the label config can't be used.
        NotAvailable: see `predict_tasks`. Where many tasks were not done in
            time, a job does them.
    """
    if not request.tasks:
        return {"results": []}
    project, tasks = services.project(request.project), request.tasks
    snapshot: Snapshot | None = None
    with services.metrics.predicting.track_inprogress():
        try:
            async with asyncio.timeout(services.settings.predict_seconds):
                snapshot = await snapshot_of(services, project, request.label_config or project.label_config)
                results = await predict_tasks(services, project, tasks, snapshot)
        except TimeoutError:
            raise await _late(services, project.key, snapshot, tasks) from None
    services.project_cache.mark_used(project.key)
    return {"results": results, "model_version": snapshot.config.model_version}


async def snapshot_of(services: Services, project: Project, label_config: str) -> Snapshot:
    """What a project is served now; its first request loads the version."""
    await services.identity()
    actual = services.swap.actual(project.key)
    if isinstance(actual, Future):
        await await_shared(services.model.network)
        await await_shared(actual)
        actual = services.swap.actual(project.key)
    if isinstance(actual, Future):  # it failed, or was overtaken
        raise NotAvailable("The project's version can't be loaded now: try again in a moment.")
    config = await await_shared(services.snapshots.resolve(project, label_config, actual))
    return await await_shared(services.snapshots.get(config, actual))


async def _late(services: Services, key: ProjectKey, snapshot: Snapshot | None, tasks: Sequence[Task]) -> NotAvailable:
    """What a late request answers; a job goes on with many tasks."""
    late = (
        f"{len(tasks)} tasks were not done within {services.settings.predict_seconds:g} s. The images seen so far are"
        " remembered: retrieve again, or fewer tasks at a time."
    )
    if not services.model.network.done():
        late = "The model is still being loaded: try again in a moment; /ready says when it is there."
    elif isinstance(services.swap.actual(key), Future):
        late = "The project's version is still being loaded: try again in a moment."
    elif snapshot is None:
        late = "The label config's new tags are still being embedded: try again in a moment."
    numbers = [task.id for task in tasks if isinstance(task.id, int) and task.id > 0]
    if len(numbers) < 2 or key.id <= 0:
        return NotAvailable(late)
    reason = f"{len(numbers)} tasks were not done within a request"
    try:
        options = JobOptions(tasks=tuple(numbers))
        asking = asyncio.to_thread(services.jobs.request_prelabelling, key, options, reason)
        job = (await asyncio.wait_for(asking, HAND_OVER_S)).job
    except InputError as error:  # no `/setup` has named the project
        return NotAvailable(f"{late} {error}")
    except (TimeoutError, RamError) as error:
        _log.warning("project %s: no job was asked for: %s", key, error or "the database didn't answer in time")
        return NotAvailable(late)
    return NotAvailable(
        f"{len(numbers):,} tasks were not done in time: job {job.short} continues them, and their predictions appear as"
        " they are done. `ram-backend jobs` and /jobs show how far it is; it needs a worker."
    )


async def webhook(services: Services, request: WebhookRequest) -> dict[str, Any]:
    """Answers `/webhook`, once the event is durable (protocol section 7).

    Label Studio ignores errors; the ledger gets such an event when it is next
    compared with it.
    """
    services.metrics.event(request.action)
    take = _start_training if request.action == "START_TRAINING" else _record
    within = copy_context().run  # with this request's id
    answer = asyncio.get_running_loop().run_in_executor(services.events, within, take, services, request)
    return {"status": "ok", **await answer}


def _record(services: Services, request: WebhookRequest) -> dict[str, Any]:
    reference = request.project_reference
    events = events_of(request, datetime.now(UTC)) if reference else []
    if not events:
        return {}
    key, count = _known(services, reference), services.metrics.ledger_events.labels
    if key is None:
        services.metrics.unknown_events.inc(len(events))
        return {"message": UNKNOWN}
    try:
        if key not in services.event_bytes:
            services.event_bytes[key] = services.ledger.size(key)
        size = sum(len(each.statement) + len(each.task_data or "") for each in events)
        if services.event_bytes[key] + size > MAX_PROJECT_BYTES:
            raise QuotaExceeded("events", f"Project {key} has {MAX_PROJECT_BYTES:,} bytes of events: no more are kept.")
        new = services.ledger.record(key, events)
    except Exception:
        count("failed").inc(len(events))
        _log.error("project %s: %d events of %s are not in the ledger", key, len(events), request.action[:60])
        raise
    services.event_bytes[key] += size if new else 0
    count("new").inc(new)
    count("known").inc(len(events) - new)
    return {}


def _known(services: Services, reference: str) -> ProjectKey | None:
    """The project of an event, None if unknown; DatabaseUnavailable: nobody can know."""
    key = services.project(reference).key
    if services.project_cache.get(key) is not None:
        services.project_cache.mark_used(key)
        return key
    if services.project_cache.problem is not None:
        raise DatabaseUnavailable(services.project_cache.problem)
    return None


def _start_training(services: Services, request: WebhookRequest) -> dict[str, Any]:
    if not request.project_reference:
        return {"message": "The request names no project, so nothing was started."}
    key = _known(services, request.project_reference)
    if key is None:
        return {"message": UNKNOWN}
    # The annotation itself may come later (protocol section 8).
    every = getattr(request.project, "min_annotations_to_start_training", None)
    submitted = isinstance(every, int) and every > 0
    reason = "an annotation was submitted" if submitted else "Start Training was pressed"
    answer = services.jobs.request_training_message(key, reason, debounced=submitted)
    _log.info("project %s: Start Training: %s", key, answer.get("message"))
    return answer
