"""What the routes work with: made when the server starts, closed when it stops."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ram_backend.database.engine import open_database
from ram_backend.errors import (
    InputError,
    NotAvailable,
    PredictionsLate,
    RamError,
    SettingsError,
)
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.client import connect_command, open_label_studio, takes_token
from ram_backend.labelstudio.requests import PredictRequest, ProjectRef, SetupRequest, Task, WebhookRequest
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore
from ram_backend.server.batcher import Batcher
from ram_backend.server.events import NO_WORKER, take_event
from ram_backend.server.images import ServerImages
from ram_backend.server.loaded_version import LoadedVersion, VersionLoader, VersionRef
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity, SharedTextEncoder, has_spare_lane
from ram_backend.server.predict import Predictor, shared
from ram_backend.server.resolved_config import ResolvedConfig
from ram_backend.server.shown_log import ShownLog
from ram_backend.server.snapshots import SnapshotCache
from ram_backend.server.swap import VersionSwap
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable

IDENTITY_WAIT_S = 2.0
"""`/setup` waits so long for the bundle to be opened: Label Studio gives up after 3 s."""

TOKEN_WAIT_S = 1.5
"""`/setup` waits so long for Label Studio to take a changed token, within the same 3 s."""

HAND_OVER_S = 5.0
"""So long a request that is late waits for the database: with `predict_seconds` it stays below Label Studio's 100 s."""

TRIES = 3
"""Attempts to load a project's version within one request: it may be overtaken by another one meanwhile."""

KEPT_PROJECTS = 1000
"""Projects whose model version is remembered for `/versions`."""

_log = logging.getLogger(__name__)


class Services:
    """Everything between the routes and the rooms below.

    Args:
        settings: of the server.
        metrics: of this app.
        jobs: where training is asked for; None: no worker is connected.
        identity, network: where they are loaded already (see `Model`).
    """

    def __init__(
        self,
        settings: Settings,
        metrics: ServerMetrics,
        *,
        jobs: JobService | None = None,
        identity: ModelIdentity | None = None,
        network: Network | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.model = Model(settings, metrics, identity=identity, network=network)
        self.store = ProjectStore.open(settings)
        self._database = open_database(settings)
        self.jobs = jobs
        self._ledger = Ledger(self._database)
        self._shown_log = ShownLog(self._ledger, metrics)
        self._fetchers = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="fetch")
        self._keepers = ThreadPoolExecutor(2, thread_name_prefix="keep")
        self._builders = ThreadPoolExecutor(2, thread_name_prefix="build")
        self._events = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._batcher = Batcher(
            settings.batch_size, settings.batch_wait_seconds, metrics, spare_lane=has_spare_lane(settings)
        )
        self._text_encoder = SharedTextEncoder(self.model, settings)
        self._images = ServerImages(self.store, self.model, settings, metrics)
        loader = VersionLoader(settings.versions_dir, self.model, self._batcher)
        self.snapshots = SnapshotCache(
            self.model,
            self._text_encoder,
            resolvers=self._keepers,
            builders=self._builders,
            limit=settings.max_snapshots,
            metrics=metrics,
        )
        self.swap = VersionSwap(
            VersionTable(self._database),
            self.store,
            model=self.model,
            loader=loader,
            snapshots=self.snapshots,
            metrics=metrics,
            jobs=jobs,
        )
        self._served_as: OrderedDict[ProjectKey, tuple[VersionRef | None, str]] = OrderedDict()
        self._predictor = Predictor(
            settings,
            model=self.model,
            snapshots=self.snapshots,
            images=self._images,
            batcher=self._batcher,
            fetchers=self._fetchers,
            keepers=self._keepers,
            metrics=metrics,
            shown_log=self._shown_log,
        )

    def start(self) -> None:
        """Begins to load the model, to watch what is served, and to build the snapshots of the projects known."""
        self.model.start()
        self.swap.start(look=self.store.problem is None)
        self._shown_log.start()
        threading.Thread(target=self._warm, name="warm", daemon=True).start()

    def close(self) -> None:
        """Stops the threads. What is being computed ends first, what waits is given up."""
        self.model.close()
        self._text_encoder.close()
        for pool in (self._fetchers, self._builders, self._keepers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._events.shutdown(wait=True)
        self.swap.close()
        self._batcher.close()
        self._shown_log.close()
        self._images.close()
        self.store.close()
        self._database.close()

    async def setup(self, request: SetupRequest) -> str:
        """Takes in what `/setup` brings; returns the model version that predictions will have.

        Raises:
            InputError: project, hostname, extra params or label config can't be used.
            NotAvailable: the bundle can't be opened, or building the snapshot has failed.
        """
        known = self.store.get(self.store.key(request.project, request.hostname))
        project = self.store.upsert(
            request.project,
            hostname=request.hostname,
            label_config=request.label_config,
            access_token=await self._accepted_token(request),
            extra_params=request.extra_params,
        )
        connection = self.store.connection(project)
        if known is None and connection.base_url and not connection.trusted:
            _log.warning(
                "Project %s: only /setup named %s, so images are fetched with that request's token, and only from"
                " public addresses. Where that can't work, %s.",
                *(project.key, connection.base_url, connect_command(project.key.id)),
            )
        await self._identity()
        live = self.swap.live(project.key)  # begins to load it
        config = await self._resolve(project, request.label_config, self.swap.ref(project.key))
        if not isinstance(live, Future) and config.version == _ref_of(live):
            snapshot = self.snapshots.get(config, live)  # begins to build it
            if snapshot.done() and isinstance(error := snapshot.exception(), RamError):
                raise error
        return config.model_version

    async def _accepted_token(self, request: SetupRequest) -> str | None:
        """The token that a `/setup` request brings; None where Label Studio doesn't take it in place of the known one.

        Raises:
            InputError: project or hostname is malformed.
        """
        token = request.access_token
        connection = self.store.to_try(request.project, hostname=request.hostname, access_token=token)
        if connection is None or connection.base_url is None:
            return token
        try:
            quick = self.settings.model_copy(update={"fetch_seconds": TOKEN_WAIT_S})
            label_studio = open_label_studio(quick, connection.base_url, connection.token)
        except SettingsError:
            return None
        if await asyncio.to_thread(takes_token, label_studio):
            return token
        _log.warning(
            "Project %s: Label Studio doesn't take the new token of /setup; the old one stays.", request.project
        )
        return None

    async def predict(self, request: PredictRequest) -> dict[str, Any]:
        """Answers `/predict`: {"results": [...], "model_version": "..."}, all of it by one snapshot.

        Raises:
            InputError: the label config can't be used.
            NotAvailable: see `Predictor.predict`. Where many tasks were not done in time, a job does them.
        """
        if not request.tasks:
            return {"results": []}
        project = self._project(request.project_ref)
        source = self._images.client(project)
        deadline = asyncio.get_running_loop().time() + self.settings.predict_seconds
        with self.metrics.predicting.track_inprogress():
            try:
                version = await self._version(project.key, deadline)
                label_config = request.label_config or project.label_config
                config = await self._resolve(project, label_config, _ref_of(version))
                results = await self._predictor.predict(project.key, request.tasks, config, version, source, deadline)
            except PredictionsLate as late:
                raise await self._handed_over(late, project.key, request.tasks) from None
        return {"results": results, "model_version": config.model_version}

    async def event(self, request: WebhookRequest) -> dict[str, Any]:
        """Answers `/webhook`, once the event is durable.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        self.metrics.event(request.action)
        key = None if request.project_ref is None else self._project(request.project_ref).key
        take = partial(
            take_event, request, datetime.now(UTC), key, ledger=self._ledger, jobs=self.jobs, metrics=self.metrics
        )
        within = copy_context().run  # what is asked for, and what is logged, names this request
        answer = await asyncio.get_running_loop().run_in_executor(self._events, within, take)
        return {"status": "ok", **answer}

    async def versions(self, project: str | None = None) -> list[str]:
        """The model version that a project ("1.1795452148", or its number) is served, or those of all.

        Projects that only another server on this database was asked about are among them.
        """
        found: list[str] = []
        for known in self.store.projects():
            if project is None or project in (str(known.key.id), f"{known.key.id}.{known.key.created}"):
                with suppress(InputError, NotAvailable):  # its own request says so
                    await self._identity()
                    ref = self.swap.ref(known.key)
                    noted = self._served_as.get(known.key)
                    if (noted is None or noted[0] != ref) and known.label_config:
                        await self._resolve(known, known.label_config, ref)
        for key, (_, model_version) in list(self._served_as.items()):
            if project is None or [str(key.id), str(key.created)][: project.count(".") + 1] == project.split("."):
                found.append(model_version)
        return sorted(set(found))

    async def list_jobs(self, project: str | None = None) -> dict[str, Any]:
        """Answers `/jobs`: how far training is, of one project ("1.1795452148", or its number) or of all.

        Raises:
            NotAvailable: the database can't be asked.
        """
        if self.jobs is None:
            return {"jobs": [], "message": NO_WORKER}
        ref = None if project is None else ProjectRef.parse(project)
        if project is not None and ref is None:
            raise InputError(f"project={project[:60]!r} names no project: give its number, such as 1 or 1.1795452148.")
        key = None if ref is None else self._project(ref).key
        jobs = await asyncio.get_running_loop().run_in_executor(self._readers, self.jobs.queue.jobs, key)
        return {"jobs": [job.to_json() for job in jobs]}

    async def _handed_over(self, late: PredictionsLate, key: ProjectKey, tasks: Sequence[Task]) -> NotAvailable:
        """What a request of many tasks answers that is late, after it has asked for a job to do them; else `late`."""
        numbers = [task.id for task in tasks if isinstance(task.id, int) and task.id > 0]
        if self.jobs is None or len(numbers) < 2 or key.id <= 0:
            return late
        reason = f"{len(numbers)} tasks were not done within a request"
        ask, within = self.jobs.prelabel, copy_context().run
        asking = asyncio.get_running_loop().run_in_executor(self._readers, within, ask, key, numbers, reason)
        try:
            said = await asyncio.wait_for(asyncio.shield(asking), HAND_OVER_S)
        except (TimeoutError, RamError) as error:
            _log.warning("project %s: no job was asked for: %s", key, error or "the database didn't answer in time")
            return late
        return PredictionsLate(f"{late} {said['message']}" if "job" not in said else str(said["message"]))

    def _project(self, ref: ProjectRef | None) -> Project:
        """The project of a request; one that no `/setup` has named has no options and no Label Studio of its own."""
        if ref is None:
            return Project(ProjectKey("", 0, 0))
        known = self.store.find(ref.id, ref.created)
        if known is None and ref.created == 0:
            same = [each for each in self.store.projects() if each.key.id == ref.id]
            known = same[0] if len(same) == 1 else None
        return known or Project(ProjectKey("", ref.id, ref.created))

    async def _version(self, key: ProjectKey, deadline: float) -> LoadedVersion | None:
        """What a project is served now; the first request after a start waits until it is loaded.

        Raises:
            PredictionsLate: it is not loaded in time.
            NotAvailable: it can't be loaded now.
        """
        await self._identity()
        for _ in range(TRIES):
            live = self.swap.live(key)
            if not isinstance(live, Future):
                return live
            try:
                async with asyncio.timeout_at(deadline):
                    await shared(self.model.network)
                    await shared(live)
            except TimeoutError:
                raise PredictionsLate("The project's version is still being loaded: try again in a moment.") from None
        raise NotAvailable("The project's version can't be loaded now: try again in a moment.")

    async def _resolve(self, project: Project, label_config: str, ref: VersionRef | None) -> ResolvedConfig:
        """What a label config means for a project under a version; notes that the project is served so."""
        await self._identity()
        config = await shared(self.snapshots.resolve(project, label_config, ref))
        if self._served_as.get(project.key) != (ref, config.model_version):
            self._served_as[project.key] = (ref, config.model_version)
            self._served_as.move_to_end(project.key)
            while len(self._served_as) > KEPT_PROJECTS:
                self._served_as.popitem(last=False)
            self.metrics.projects.set(len(self._served_as))
            _log.info("project %s is served as %s", project.key, config.model_version)
        return config

    async def _identity(self) -> ModelIdentity:
        if not self.model.identity.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(shared(self.model.identity), IDENTITY_WAIT_S)
        return self.model.known()

    def _warm(self) -> None:
        """Builds what the projects will ask for, latest first, so that the first tasks after a start needn't wait."""
        try:
            self.model.identity.result()
            known = sorted(self.store.projects(), key=lambda each: each.updated_at or datetime.min.replace(tzinfo=UTC))
            for project in known[-self.settings.max_snapshots // 2 :]:
                self.swap.warm(project)
        except (RamError, RuntimeError, CancelledError) as error:  # the model says so, or the server is going down
            _log.info("Snapshots are not built beforehand: %s", error)


def _ref_of(version: LoadedVersion | None) -> VersionRef | None:
    return None if version is None else version.ref
