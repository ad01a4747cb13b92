"""What the routes work with: made when the server starts, closed when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from ram_backend.database.engine import open_database
from ram_backend.errors import (
    InputError,
    NotAvailable,
    PredictionsLate,
    RamError,
    SettingsError,
    VersionDamaged,
)
from ram_backend.feedback.ledger import Ledger
from ram_backend.labelstudio.client import connect_command, open_label_studio, takes_token
from ram_backend.labelstudio.requests import PredictRequest, ProjectRef, SetupRequest, Task, WebhookRequest
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore
from ram_backend.server.batcher import Batcher
from ram_backend.server.canary import Canary
from ram_backend.server.counting import Counting
from ram_backend.server.embedding import SharedTextEncoder
from ram_backend.server.events import Event, EventSink
from ram_backend.server.ledger_sink import LedgerSink
from ram_backend.server.live import LiveVersion
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity, has_spare_lane
from ram_backend.server.pictures import PictureDesk
from ram_backend.server.predicting import Predictor
from ram_backend.server.recipe_book import RecipeBook
from ram_backend.server.recipes import Recipe
from ram_backend.server.served import ServedVersions
from ram_backend.server.showing import ShownRecorder
from ram_backend.server.snapshots import Snapshot, SnapshotShelf
from ram_backend.server.sources import ImageSources
from ram_backend.server.training_desk import NO_WORKER, TrainingDesk
from ram_backend.server.waiting import shared
from ram_backend.settings import Settings
from ram_backend.tagging.token_cache import TokenCache
from ram_backend.versions.table import VersionTable

IDENTITY_WAIT_S = 2.0
"""`/setup` waits so long for the bundle to be opened: Label Studio gives up after 3 s."""

TOKEN_WAIT_S = 1.5
"""`/setup` waits so long for Label Studio to take a changed token, within the same 3 s."""

HAND_OVER_S = 5.0
"""So long a request that is late waits for the database: with `predict_seconds` it stays below Label Studio's 100 s."""

TRIES = 3
"""A prediction whose version turns out to be damaged is made again with what is served instead, so often."""

_log = logging.getLogger(__name__)


class Services:
    """Everything between the routes and the rooms below.

    Args:
        settings: of the server.
        metrics: of this app.
        sink: takes events; None: the ledger does.
        desk: where training is asked for; None: no worker is connected.
        identity, network: where they are loaded already (see `Model`).
    """

    def __init__(
        self,
        settings: Settings,
        metrics: ServerMetrics,
        sink: EventSink | None = None,
        *,
        desk: TrainingDesk | None = None,
        identity: ModelIdentity | None = None,
        network: Network | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.model = Model(settings, metrics, identity=identity, network=network)
        self.store = ProjectStore.open(settings)
        self._database = open_database(settings)
        self._desk = desk
        self.counting = Counting(desk, metrics)
        ledger = Ledger(self._database)
        self._sink = sink or LedgerSink(ledger, self._key, metrics, desk)
        self._recorder = ShownRecorder(ledger, metrics)
        self._fetchers = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="fetch")
        self._keepers = ThreadPoolExecutor(2, thread_name_prefix="keep")
        self._builders = ThreadPoolExecutor(2, thread_name_prefix="build")
        self._events = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._batcher = Batcher(
            settings.batch_size, settings.batch_wait_seconds, metrics, spare_lane=has_spare_lane(settings)
        )
        self._text_encoder = SharedTextEncoder(self.model, settings)
        self._sources = ImageSources(self.store, settings)
        self.book = RecipeBook()
        canary = Canary(self.model, self._batcher)
        self.shelf = SnapshotShelf(
            self.model, self._text_encoder, self._builders, settings.max_snapshots, metrics, canary
        )
        self.served = ServedVersions(
            settings,
            VersionTable(self._database),
            model=self.model,
            metrics=metrics,
            check=canary.check,
            warmth=self,
            desk=desk,
        )
        self._predictor = Predictor(
            settings,
            model=self.model,
            shelf=self.shelf,
            desk=PictureDesk(settings, TokenCache(settings.cache_dir / "tokens", settings.token_cache_bytes), metrics),
            batcher=self._batcher,
            fetchers=self._fetchers,
            keepers=self._keepers,
            metrics=metrics,
            recorder=self._recorder,
        )

    def start(self) -> None:
        """Begins to load the model, to watch what is served, and to build the snapshots of the projects known."""
        self.model.start()
        self.served.start(look=self.store.health.ok)
        self._recorder.start()
        self._builders.submit(self._build_known)

    def close(self) -> None:
        """Stops the threads. What is being computed ends first, what waits is given up."""
        self.model.close()
        self._text_encoder.close()
        for pool in (self._fetchers, self._builders, self._keepers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._events.shutdown(wait=True)
        self.counting.close()
        self.served.close()
        self._batcher.close()
        self._recorder.close()
        self.store.close()
        self._database.close()

    async def setup(self, request: SetupRequest) -> str:
        """Takes in what `/setup` brings; returns the model version that predictions will have.

        Raises:
            InputError: project, hostname, extra params or label config can't be used.
            NotAvailable: the bundle can't be opened, or building the snapshot has failed.
        """
        known = self.store.get(ProjectKey.parse(request.project, request.hostname))
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
        recipe = await self._recipe(project, request.label_config)
        self._note(project.key, recipe)
        failed = self.shelf.failure(recipe)
        self.shelf.get(recipe)
        if isinstance(failed, RamError) and not isinstance(failed, VersionDamaged):
            raise failed
        return recipe.model_version

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
        source = self._sources.of(project)
        deadline = asyncio.get_running_loop().time() + self.settings.predict_seconds
        with self.metrics.predicting.track_inprogress():
            for left in reversed(range(TRIES)):
                recipe = await self._recipe(project, request.label_config or project.label_config)
                self._note(project.key, recipe)
                try:
                    results = await self._predictor.predict(project.key, request.tasks, recipe, source, deadline)
                    break
                except VersionDamaged:
                    if not left:
                        raise
                except PredictionsLate as late:
                    raise await self._handed_over(late, project.key, request.tasks) from None
        return {"results": results, "model_version": recipe.model_version}

    async def event(self, request: WebhookRequest) -> dict[str, Any]:
        """Hands an event to the sink; returns the answer of `/webhook`.

        Raises:
            DatabaseUnavailable: the event could not be kept.
        """
        event = Event(request.action, request.project_ref, datetime.now(UTC), request)
        self.metrics.event(event.action)
        within = copy_context().run  # what is asked for, and what is logged, names this request
        said = await asyncio.get_running_loop().run_in_executor(self._events, within, self._sink.accept, event)
        return {"status": "ok", **(said or {})}

    async def versions(self, project: str | None = None) -> list[str]:
        """The model version that a project ("1.1795452148", or its number) is served, or those of all.

        Projects that only another server on this database was asked about are among them.
        """
        for known in self.store.projects():
            named = project is not None and project in (str(known.key.id), f"{known.key.id}.{known.key.created}")
            if known.label_config and (named or (project is None and not self.book.has(known.key))):
                with suppress(InputError, NotAvailable):  # its own request says so
                    self._note(known.key, await self._recipe(known, known.label_config))
        return self.book.versions(project)

    async def jobs(self, project: str | None = None) -> dict[str, Any]:
        """Answers `/jobs`: how far training is, of one project ("1.1795452148", or its number) or of all.

        Raises:
            NotAvailable: the database can't be asked.
        """
        if self._desk is None:
            return {"jobs": [], "message": NO_WORKER}
        ref = None if project is None else ProjectRef.parse(project)
        if project is not None and ref is None:
            raise InputError(f"project={project[:60]!r} names no project: give its number, such as 1 or 1.1795452148.")
        key = None if ref is None else self._project(ref).key
        jobs = await asyncio.get_running_loop().run_in_executor(self._readers, self._desk.jobs, key)
        return {"jobs": jobs}

    def warm(self, key: ProjectKey, version: LiveVersion | None) -> Iterable[Future[Snapshot]]:
        """See `Warmth`: the snapshots of the label configs that the project was asked for with."""
        project, identity = self.store.get(key), self.model.identity.result()
        building: list[Future[Snapshot]] = []
        if project is None:
            return building
        for label_config in self.book.label_configs(project):
            with suppress(InputError):  # it is no fault of the version's
                building.append(self.shelf.get(self.book.make(identity, project, label_config, version)))
        return building

    def forget(self, version: LiveVersion) -> None:
        """See `Warmth`."""
        self.book.forget(version)
        self.shelf.forget(version)

    def swapped(self, key: ProjectKey) -> None:
        """See `Warmth`: `/versions` says so at once."""
        project, identity = self.store.get(key), self.model.identity.result()
        if project is not None and project.label_config:
            with suppress(InputError):
                version = self.served.live(key, identity)
                self._note(key, self.book.make(identity, project, project.label_config, version))

    async def _handed_over(self, late: PredictionsLate, key: ProjectKey, tasks: Sequence[Task]) -> NotAvailable:
        """What a request of many tasks answers that is late, after it has asked for a job to do them; else `late`."""
        numbers = [task.id for task in tasks if isinstance(task.id, int) and task.id > 0]
        if self._desk is None or len(numbers) < 2 or key.id <= 0:
            return late
        reason = f"{len(numbers)} tasks were not done within a request"
        ask, within = self._desk.prelabel, copy_context().run
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

    def _key(self, ref: ProjectRef) -> ProjectKey:
        return self._project(ref).key

    async def _recipe(self, project: Project, label_config: str) -> Recipe:
        """The recipe of a project with that label config, and with the version that is served now."""
        identity = await self._identity()
        version = self.served.live(project.key, identity)
        recipe = self.book.find(project, label_config, version)
        if recipe is None:
            loop = asyncio.get_running_loop()
            make = self.book.make
            recipe = await loop.run_in_executor(self._keepers, make, identity, project, label_config, version)
        return recipe

    async def _identity(self) -> ModelIdentity:
        if not self.model.identity.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(shared(self.model.identity), IDENTITY_WAIT_S)
        return self.model.known()

    def _note(self, key: ProjectKey, recipe: Recipe) -> None:
        count = self.book.note(key, recipe)
        if count is not None:
            self.metrics.projects.set(count)

    def _build_known(self) -> None:
        """Builds what the projects will ask for, latest first, so that the first tasks after a start needn't wait."""
        try:
            identity = self.model.identity.result()
        except RamError:
            return  # said by the model already
        known = sorted(self.store.projects(), key=lambda each: each.updated_at.timestamp() if each.updated_at else 0.0)
        for project in known[-self.settings.max_snapshots // 2 :]:
            try:
                version = self.served.live(project.key, identity)
                self.shelf.get(self.book.make(identity, project, project.label_config, version))
            except (InputError, NotAvailable) as error:
                _log.info("project %s: %s", project.key, error)
            except RuntimeError:
                return  # the server is going down
