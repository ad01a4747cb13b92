"""The server without HTTP: for a host that calls from threads of its own, such as label-studio-ml's."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ram_backend.errors import NotAvailable
from ram_backend.labelstudio.requests import PredictRequest, SetupRequest, read_request
from ram_backend.models.network import Network
from ram_backend.projects.keys import instance_of
from ram_backend.projects.project import Project
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import ModelIdentity
from ram_backend.server.predict import shared
from ram_backend.server.services import Services
from ram_backend.settings import Settings, load_settings

T = TypeVar("T")


@dataclass(frozen=True)
class HostedProject:
    """What a host knows of a project. None: the host doesn't say, and what is known from elsewhere holds.

    Attributes:
        id: the number that Label Studio shows in its addresses.
        label_config: XML.
        hostname: Label Studio's address as `/setup` names it.
        access_token: the token of `/setup`; never shown in `repr`.
        extra_params: of the connection: an object, or its JSON text.
    """

    id: int | None
    label_config: str = field(default="", repr=False)
    hostname: str | None = None
    access_token: str | None = field(default=None, repr=False)
    extra_params: object = None


class InProcess:
    """The services behind `/setup` and `/predict`, with an event loop in a thread; its methods may be called by many.

    Args:
        settings: of the server; those of HTTP (host, port, login, sizes of bodies) are the host's business.
        identity: the bundle, where it is open already; None: it is opened in the background.
        network: the bundle's network, where it is loaded already; None: it is loaded in the background.

    Raises:
        SettingsError: the settings don't fit together.
    """

    def __init__(
        self, settings: Settings, *, identity: ModelIdentity | None = None, network: Network | None = None
    ) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="in-process", daemon=True)
        self._thread.start()
        try:
            self._services = self._done(_open(settings, identity, network))
        except BaseException:
            self._stop()
            raise

    def version(self, project: HostedProject) -> str:
        """The model version that predictions of a project will have, without waiting for the model.

        Raises:
            InputError: label config, extra params or hostname can't be used, or the project has no number.
            NotAvailable: the bundle is still being opened, or can't be.
        """
        return self._done(self._setup(project))

    def predict(self, project: HostedProject, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        """One prediction per task, in order, each with its `model_version`: those of the server's `/predict`.

        Raises:
            InputError: a task, the label config or the extra params can't be used.
            NotAvailable: the model, the snapshot or the predictions are not there in time.
        """
        return self._done(self._predict(project, tasks))

    def close(self) -> None:
        """Stops all threads. What is being computed ends first, what waits is given up."""
        if self._loop.is_closed():
            return
        self._services.close()
        self._stop()

    async def _setup(self, project: HostedProject) -> str:
        known = self._known(project)
        body = {
            "project": _named(project, known),
            "schema": project.label_config,
            "hostname": known.hostname if known else project.hostname,
            "access_token": project.access_token,
            "extra_params": _extra_params(project, known),
        }
        return await self._services.setup(read_request(SetupRequest, json.dumps(body)))

    async def _predict(self, project: HostedProject, tasks: Sequence[Any]) -> list[dict[str, Any]]:
        await self._opened()
        name = ""
        if project.id is not None:
            await self._setup(project)
            name = _named(project, self._known(project))
        body = {"project": name, "label_config": project.label_config, "tasks": list(tasks)}
        answer = await self._services.predict(read_request(PredictRequest, json.dumps(body)))
        results: list[dict[str, Any]] = answer["results"]
        return results

    async def _opened(self) -> None:
        """Waits for the bundle: the first time it may have to be installed."""
        try:
            await asyncio.wait_for(shared(self._services.model.identity), self._settings.predict_seconds)
        except TimeoutError:
            raise NotAvailable(
                f"Bundle {self._settings.bundle!r} is still being opened after {self._settings.predict_seconds:g} s:"
                " try again in a moment."
            ) from None

    def _known(self, project: HostedProject) -> Project | None:
        """The row of a project whose creation time the host doesn't tell: the only one of that number and instance."""
        instance = instance_of(project.hostname)
        rows = [row for row in self._services.store.projects() if row.key.id == project.id and row.key.created]
        rows = [row for row in rows if not instance or row.key.instance == instance]
        return rows[0] if len(rows) == 1 else None

    def _done(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


_opening = threading.Lock()
_of_process: dict[int, InProcess] = {}


def in_process() -> InProcess:
    """The services of this process, with the settings of its environment; opened when they are first asked for.

    A process that was forked off opens its own: threads and networks don't survive a fork.

    Raises:
        SettingsError: a setting can't be used.
    """
    with _opening:
        found = _of_process.get(os.getpid())
        if found is None:
            _of_process.clear()
            found = _of_process[os.getpid()] = InProcess(load_settings())
            atexit.register(_close, os.getpid())
        return found


def _close(process: int) -> None:
    if process == os.getpid() and (found := _of_process.pop(process, None)) is not None:
        found.close()


async def _open(settings: Settings, identity: ModelIdentity | None, network: Network | None) -> Services:
    services = Services(settings, ServerMetrics(), identity=identity, network=network)
    services.start()
    return services


def _named(project: HostedProject, known: Project | None) -> str:
    """The project as requests name it; the creation time is 0 where nobody knows it."""
    return f"{project.id}.{known.key.created if known else 0}"


def _extra_params(project: HostedProject, known: Project | None) -> object:
    if project.extra_params is None and known is not None:
        return known.extra_params.to_json()
    return dict(project.extra_params) if isinstance(project.extra_params, Mapping) else project.extra_params
