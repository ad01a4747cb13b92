"""What the routes work with: made when the server starts, closed when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ram_backend.errors import InputError, NotAvailable, RamError
from ram_backend.labelstudio import PredictRequest, SetupRequest, WebhookRequest, parse_label_config
from ram_backend.models import Network
from ram_backend.projects import Project, ProjectKey, ProjectOptions, ProjectStore
from ram_backend.server.batcher import Batcher
from ram_backend.server.embedding import SharedTextEncoder
from ram_backend.server.events import Event, EventSink
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity
from ram_backend.server.pictures import PictureDesk
from ram_backend.server.predicting import Predictor
from ram_backend.server.recipes import Recipe, make_recipe
from ram_backend.server.snapshots import SnapshotShelf
from ram_backend.server.sources import ImageSources
from ram_backend.server.waiting import shared
from ram_backend.settings import Settings
from ram_backend.tagging.token_cache import TokenCache

IDENTITY_WAIT_S = 2.0
"""`/setup` waits so long for the bundle to be opened: Label Studio gives up after 3 s."""

KEPT_RECIPES = 128
KEPT_VERSIONS = 1000
_log = logging.getLogger(__name__)

_RecipeKey = tuple[str, ProjectOptions, ProjectOptions]


class Services:
    """Everything between the routes and the rooms below.

    Args:
        settings: of the server.
        metrics: of this app.
        sink: takes events.
        identity, network: where they are loaded already (see `Model`).
    """

    def __init__(
        self,
        settings: Settings,
        metrics: ServerMetrics,
        sink: EventSink,
        *,
        identity: ModelIdentity | None = None,
        network: Network | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.model = Model(settings, metrics, identity=identity, network=network)
        self.store = ProjectStore.open(settings)
        self._sink = sink
        self._fetchers = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="fetch")
        self._keepers = ThreadPoolExecutor(2, thread_name_prefix="keep")
        self._builders = ThreadPoolExecutor(2, thread_name_prefix="build")
        self._events = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._batcher = Batcher(settings.batch_size, settings.batch_wait_seconds, metrics)
        self._text_encoder = SharedTextEncoder(self.model, settings)
        self._sources = ImageSources(self.store, settings)
        self._recipes: OrderedDict[_RecipeKey, Recipe] = OrderedDict()
        self._versions: OrderedDict[ProjectKey, str] = OrderedDict()
        self.shelf = SnapshotShelf(self.model, self._text_encoder, self._builders, settings.max_snapshots, metrics)
        self._predictor = Predictor(
            settings,
            model=self.model,
            shelf=self.shelf,
            desk=PictureDesk(settings, TokenCache(settings.cache_dir / "tokens", settings.token_cache_bytes), metrics),
            batcher=self._batcher,
            fetchers=self._fetchers,
            keepers=self._keepers,
            metrics=metrics,
        )

    def start(self) -> None:
        """Begins to load the model, and to build the snapshots of the projects that are known."""
        self.model.start()
        self._builders.submit(self._build_known)

    def close(self) -> None:
        """Stops the threads. What is being computed ends first, what waits is given up."""
        self.model.close()
        self._text_encoder.close()
        for pool in (self._fetchers, self._builders, self._keepers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._events.shutdown(wait=True)
        self._batcher.close()
        self.store.close()

    async def setup(self, request: SetupRequest) -> str:
        """Takes in what `/setup` brings; returns the model version that predictions will have.

        Raises:
            InputError: project, hostname, extra params or label config can't be used.
            NotAvailable: the bundle can't be opened, or building the snapshot has failed.
        """
        project = self.store.upsert(
            request.project,
            hostname=request.hostname,
            label_config=request.label_config,
            access_token=request.access_token,
            extra_params=request.extra_params,
        )
        recipe = await self._recipe(project, request.label_config)
        self._note(project, recipe)
        failed = self.shelf.failure(recipe)
        self.shelf.get(recipe)
        if isinstance(failed, RamError):
            raise failed
        return recipe.model_version

    async def predict(self, request: PredictRequest) -> dict[str, Any]:
        """Answers `/predict`: {"results": [...], "model_version": "..."}.

        Raises:
            InputError: the label config can't be used.
            NotAvailable: see `Predictor.predict`.
        """
        if not request.tasks:
            return {"results": []}
        project = self._project(request)
        recipe = await self._recipe(project, request.label_config or project.label_config)
        self._note(project, recipe)
        with self.metrics.predicting.track_inprogress():
            results = await self._predictor.predict(request.tasks, recipe, self._sources.of(project))
        return {"results": results, "model_version": recipe.model_version}

    async def event(self, request: WebhookRequest) -> dict[str, Any]:
        """Hands an event to the sink; returns the answer of `/webhook`."""
        event = Event(request.action, request.project_ref, datetime.now(UTC), request)
        self.metrics.event(event.action)
        said = await asyncio.get_running_loop().run_in_executor(self._events, self._sink.accept, event)
        return {"status": "ok", **(said or {})}

    def versions(self, project: str | None = None) -> list[str]:
        """The current model version of a project ("1.1795452148", or its number), or of all that were asked about."""
        asked = None if project is None else project.split(".")
        found = [
            version
            for key, version in list(self._versions.items())
            if asked is None or [str(key.id), str(key.created)][: len(asked)] == asked
        ]
        return sorted(set(found))

    def _project(self, request: PredictRequest) -> Project:
        """The project of a request; one that no `/setup` has named has no options and no Label Studio of its own."""
        ref = request.project_ref
        if ref is None:
            return Project(ProjectKey("", 0, 0))
        known = self.store.find(ref.id, ref.created)
        if known is None and ref.created == 0:
            same = [each for each in self.store.projects() if each.key.id == ref.id]
            known = same[0] if len(same) == 1 else None
        return known or Project(ProjectKey("", ref.id, ref.created))

    async def _recipe(self, project: Project, label_config: str) -> Recipe:
        """The recipe of a project with that label config: from memory, where it was asked for before."""
        identity = await self._identity()
        key = (label_config, project.extra_params, project.set_options)
        recipe = self._recipes.get(key)
        if recipe is None:
            loop = asyncio.get_running_loop()
            recipe = await loop.run_in_executor(self._keepers, self._make, identity, project, label_config)
            self._recipes[key] = recipe
            while len(self._recipes) > KEPT_RECIPES:
                self._recipes.popitem(last=False)
        else:
            self._recipes.move_to_end(key)
        return recipe

    @staticmethod
    def _make(identity: ModelIdentity, project: Project, label_config: str) -> Recipe:
        plan = parse_label_config(label_config)
        recipe = make_recipe(identity, plan, project)
        for note in plan.notes:
            _log.info("project %s: %s", project.key, note)
        return recipe

    async def _identity(self) -> ModelIdentity:
        if not self.model.identity.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(shared(self.model.identity), IDENTITY_WAIT_S)
        return self.model.known()

    def _note(self, project: Project, recipe: Recipe) -> None:
        if self._versions.get(project.key) != recipe.model_version:
            self._versions[project.key] = recipe.model_version
            _log.info("project %s is served as %s", project.key, recipe.model_version)
            self.metrics.projects.set(len(self._versions))
            while len(self._versions) > KEPT_VERSIONS:
                self._versions.popitem(last=False)

    def _build_known(self) -> None:
        """Builds what the projects will ask for, latest first, so that the first tasks after a start needn't wait."""
        try:
            identity = self.model.identity.result()
        except RamError:
            return  # said by the model already
        known = sorted(self.store.projects(), key=lambda each: each.updated_at.timestamp() if each.updated_at else 0.0)
        for project in known[-self.settings.max_snapshots // 2 :]:
            try:
                self.shelf.get(self._make(identity, project, project.label_config))
            except (InputError, NotAvailable) as error:
                _log.info("project %s: %s", project.key, error)
            except RuntimeError:
                return  # the server is going down
