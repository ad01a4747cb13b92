"""The server without HTTP: for a host that calls from threads of its own, such as label-studio-ml's."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar

from ram_backend.labelstudio.requests import PredictRequest, SetupRequest, read_request
from ram_backend.projects.keys import instance_of
from ram_backend.server import handlers
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.services import Services
from ram_backend.settings import Settings, load_settings

T = TypeVar("T")


class InProcess:
    """The handlers of `/setup` and `/predict`, with an event loop in a thread; its methods may be called by many.

    What a host knows of a project comes as a `SetupRequest`. Its `project` is a number, for hosts don't tell when a
    project was created, or "" for none. What it doesn't say otherwise (None) is what is known from elsewhere.

    Args:
        settings: of the server; those of HTTP (host, port, login, sizes of bodies) are the host's business.
        model: None: the settings' one, opened and loaded in the background.

    Raises:
        SettingsError: the settings don't fit together.
    """

    def __init__(self, settings: Settings, *, model: Model | None = None) -> None:
        self._process = os.getpid()
        self._predict_seconds = settings.predict_seconds
        self._services = Services(settings, ServerMetrics(), model=model)
        self._services.start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="in-process", daemon=True)
        self._thread.start()

    def setup(self, request: SetupRequest) -> str:
        """The model version that predictions of a project will have, without waiting for the model.

        Raises:
            InputError: label config, extra params or hostname can't be used, or the project has no number.
            NotAvailable: the bundle is still being opened, or can't be.
        """
        return self._result(handlers.setup(self._services, self._completed(request)))

    def predict(self, request: SetupRequest, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        """One prediction per task, in order, each with its `model_version`: those of the server's `/predict`.

        Waits for the bundle, which may have to be installed.

        Raises:
            InputError: a task, the label config or the extra params can't be used.
            NotAvailable: the model, the snapshot or the predictions are not there in time.
        """
        return self._result(self._predict(request, tasks))

    def close(self) -> None:
        """Stops all threads. What is being computed ends first, what waits is given up."""
        if self._loop.is_closed() or os.getpid() != self._process:  # threads don't survive a fork
            return
        self._services.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _predict(self, request: SetupRequest, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        await self._services.identity(self._predict_seconds)
        if request.project:
            request = self._completed(request)
            await handlers.setup(self._services, request)
        body = {"project": request.project, "label_config": request.label_config, "tasks": list(tasks)}
        answer = await handlers.predict(self._services, read_request(PredictRequest, body))
        results: list[dict[str, Any]] = answer["results"]
        return results

    def _completed(self, request: SetupRequest) -> SetupRequest:
        """The request as Label Studio would send it, where one project of that number and instance is known."""
        instance = instance_of(request.hostname)
        rows = [
            row for row in self._services.store.projects() if str(row.key.id) == request.project and row.key.created
        ]
        rows = [row for row in rows if not instance or row.key.instance == instance]
        if len(rows) != 1:
            return request.model_copy(update={"project": f"{request.project}.0"})
        (row,) = rows
        options = row.extra_params.to_json() if request.extra_params is None else request.extra_params
        named = f"{row.key.id}.{row.key.created}"
        return request.model_copy(update={"project": named, "hostname": row.hostname, "extra_params": options})

    def _result(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_opening = threading.Lock()


def in_process() -> InProcess:
    """The handlers of this process, with the settings of its environment; opened when they are first asked for.

    A process that was forked off opens its own: threads and networks don't survive a fork.

    Raises:
        SettingsError: a setting can't be used.
    """
    with _opening:
        return _of_process(os.getpid())


@cache
def _of_process(process: int) -> InProcess:
    opened = InProcess(load_settings())
    atexit.register(opened.close)
    return opened
