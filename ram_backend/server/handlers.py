"""Request handlers: what `/setup` and `/predict` do, without HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from ram_backend.errors import NotAvailable, PredictionsLate, RamError, SettingsError
from ram_backend.labelstudio.client import connect_command, open_label_studio, takes_token
from ram_backend.labelstudio.requests import PredictRequest, SetupRequest, Task
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.server.loaded_version import LoadedVersion, VersionRef
from ram_backend.server.model import shared
from ram_backend.server.predict import predict_tasks
from ram_backend.server.services import Services

TOKEN_WAIT_S = 1.5
"""How long `/setup` waits until Label Studio takes a changed token: Label Studio gives up after 3 s."""

HAND_OVER_S = 5.0
"""How long a late request waits for the database: with `predict_seconds` it stays below Label Studio's 100 s."""

TRIES = 3
"""Attempts to load a project's version within one request: it may be overtaken by another one meanwhile."""

_log = logging.getLogger(__name__)


async def setup(services: Services, request: SetupRequest) -> str:
    """Takes in what `/setup` brings; returns the model version that predictions will have.

    Raises:
        InputError: project, hostname, extra params or label config can't be used.
        NotAvailable: the bundle can't be opened, or building the snapshot has failed.
    """
    store, swap = services.store, services.swap
    key = store.key(request.project, request.hostname)
    known, token = store.get(key), await _accepted_token(services, key, request.access_token)
    project = store.upsert(
        Setup.read(key, label_config=request.label_config, access_token=token, extra_params=request.extra_params)
    )
    connection = store.connection(project)
    if known is None and connection.base_url and not connection.trusted:
        _log.warning(
            "Project %s: only /setup named %s, so images are fetched with that request's token, and only from"
            " public addresses. Where that can't work, %s.",
            *(project.key, connection.base_url, connect_command(project.key.id)),
        )
    await services.identity()
    live = swap.live(project.key)  # begins to load it
    version = swap.ref(project.key) if isinstance(live, Future) else _ref(live)
    config = await shared(services.snapshots.resolve(project, request.label_config, version))
    if not isinstance(live, Future):
        snapshot = services.snapshots.get(config, live)  # begins to build it
        if snapshot.done() and isinstance(error := snapshot.exception(), RamError):
            raise error
    return config.model_version


async def _accepted_token(services: Services, key: ProjectKey, token: str | None) -> str | None:
    """The token that a `/setup` request brings; None where Label Studio doesn't take it in place of the known one."""
    connection = services.store.to_try(key, token)
    if connection is None or connection.base_url is None:
        return token
    with suppress(SettingsError):
        quick = services.settings.model_copy(update={"fetch_seconds": TOKEN_WAIT_S})
        label_studio = open_label_studio(quick, connection.base_url, connection.token)
        if await asyncio.to_thread(takes_token, label_studio):
            return token
    _log.warning("Project %s: Label Studio doesn't take the new token of /setup; the old one stays.", key)
    return None


async def predict(services: Services, request: PredictRequest) -> dict[str, Any]:
    """Answers `/predict`: {"results": [...], "model_version": "..."}, all of it by one snapshot.

    Raises:
        InputError: the label config can't be used.
        NotAvailable: see `predict_tasks`. Where many tasks were not done in time, a job does them.
    """
    if not request.tasks:
        return {"results": []}
    project = services.project(request.project)
    key, tasks = project.key, request.tasks
    deadline = asyncio.get_running_loop().time() + services.settings.predict_seconds
    with services.metrics.predicting.track_inprogress():
        try:
            version = await _live_version(services, key, deadline)
            label_config = request.label_config or project.label_config
            config = await shared(services.snapshots.resolve(project, label_config, _ref(version)))
            results = await predict_tasks(services, project, tasks, config, version, deadline)
        except PredictionsLate as late:
            raise await _handed_over(services, late, key, tasks) from None
    services.store.mark_used(key)
    return {"results": results, "model_version": config.model_version}


async def _live_version(services: Services, key: ProjectKey, deadline: float) -> LoadedVersion | None:
    """The version that a project is served now; the first request after a start waits until it is loaded.

    Raises:
        PredictionsLate: it is not loaded in time.
        NotAvailable: it can't be loaded now.
    """
    await services.identity()
    for _ in range(TRIES):
        live = services.swap.live(key)
        if not isinstance(live, Future):
            return live
        try:
            async with asyncio.timeout_at(deadline):
                await shared(services.model.network)
                await shared(live)
        except TimeoutError:
            raise PredictionsLate("The project's version is still being loaded: try again in a moment.") from None
    raise NotAvailable("The project's version can't be loaded now: try again in a moment.")


async def _handed_over(
    services: Services, late: PredictionsLate, key: ProjectKey, tasks: Sequence[Task]
) -> PredictionsLate:
    """What a late request of many tasks answers, after it has asked for a job to do them; else `late`."""
    numbers = [task.id for task in tasks if isinstance(task.id, int) and task.id > 0]
    if services.jobs is None or len(numbers) < 2 or key.id <= 0:
        return late
    reason = f"{len(numbers)} tasks were not done within a request"
    try:
        asking = asyncio.to_thread(services.jobs.prelabel, key, numbers, reason)
        answer = await asyncio.wait_for(asking, HAND_OVER_S)
    except (TimeoutError, RamError) as error:
        _log.warning("project %s: no job was asked for: %s", key, error or "the database didn't answer in time")
        return late
    return PredictionsLate(str(answer["message"]) if "job" in answer else f"{late} {answer['message']}")


def _ref(version: LoadedVersion | None) -> VersionRef | None:
    return None if version is None else version.ref
