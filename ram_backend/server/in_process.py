"""Blocking portal to the server's handlers, for a host with threads of its own."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

from anyio.from_thread import start_blocking_portal

from ram_backend.labelstudio.request_models import PredictRequest, SetupRequest, read_request
from ram_backend.projects.keys import instance_of
from ram_backend.server import handlers
from ram_backend.server.model import ModelLoader
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.server.services import Services
from ram_backend.settings import Settings, load_settings


class InProcess:
    """The handlers of `/setup` and `/predict` on an event loop, for many threads.

    Requests name a project by its number alone, for hosts don't tell when it
    was created. What they leave None is what is known from elsewhere.
    """

    def __init__(self, settings: Settings, *, model: ModelLoader | None = None) -> None:
        self._process = os.getpid()
        self._services = Services(settings, ServerMetrics(), jobs=None, model=model)
        self._services.start()
        self._opened = ExitStack()
        self._portal = self._opened.enter_context(start_blocking_portal())
        self._opened.callback(self._services.close)

    def setup(self, request: SetupRequest) -> str | None:
        """As `handlers.setup`, without waiting for the model; None: it names no project."""
        completed = self._completed(request)
        if completed is None or not request.label_config:
            return None
        return self._portal.call(handlers.setup, self._services, completed)

    def predict(self, request: SetupRequest, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        """One prediction per task, in order. Waits for the bundle's installation.

        Raises as `handlers.setup`, with what `/setup` brings, and
        `handlers.predict`.
        """
        return self._portal.call(self._predict, request, tasks)

    def close(self) -> None:
        """Stops all threads; what has begun ends first, what waits is given up."""
        if os.getpid() == self._process:  # threads don't survive a fork
            self._opened.close()

    async def _predict(self, request: SetupRequest, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        await self._services.identity(self._services.settings.predict_seconds)
        if (completed := self._completed(request)) is not None:
            await handlers.setup(self._services, completed)
        project = "" if completed is None else completed.project
        body = {"project": project, "label_config": request.label_config, "tasks": list(tasks)}
        answer = await handlers.predict(self._services, read_request(PredictRequest, body))
        results: list[dict[str, Any]] = answer["results"]
        return results

    def _completed(self, request: SetupRequest) -> SetupRequest | None:
        """The request as Label Studio would send it; None: it names no project."""
        number = self._services.project(request.project).key.id
        instance = instance_of(request.hostname)
        known = [row for row in self._services.project_cache.projects() if row.key.created and row.key.id == number]
        rows = [row for row in known if instance in ("", row.key.instance)]
        if len(rows) != 1:
            return request.model_copy(update={"project": f"{number}.0"}) if number else None
        (row,) = rows
        options = row.extra_params.to_json() if request.extra_params is None else request.extra_params
        named = f"{row.key.id}.{row.key.created}"
        return request.model_copy(update={"project": named, "hostname": row.hostname, "extra_params": options})


_opening = threading.Lock()


def in_process() -> InProcess:
    """The handlers of this process, by its environment; a fork opens its own."""
    with _opening:
        return _of_process(os.getpid())


@cache
def _of_process(process: int) -> InProcess:
    opened = InProcess(load_settings())
    atexit.register(opened.close)
    return opened
