"""Composition root of the server: makes its parts, and closes them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from weakref import WeakKeyDictionary, WeakValueDictionary

from ram_backend.database.engine import open_database
from ram_backend.errors import InputError, SettingsError
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.client import fetch_limits, open_label_studio
from ram_backend.labelstudio.task_images import TaskImages
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.keys import ProjectKey, parse_project
from ram_backend.projects.project import Connection, Project
from ram_backend.server.batcher import Batcher
from ram_backend.server.model import ModelIdentity, ModelLoader, ModelPool, await_shared
from ram_backend.server.processes import ProcessPool
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.server.shown_log import ShownLog
from ram_backend.server.snapshots import SnapshotCache
from ram_backend.server.swap import VersionController
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import ImageLoader, open_image_loader
from ram_backend.versions.table import VersionTable

CLIENTS = 64
"""Clients of Label Studio in memory."""

EMBEDDED_AT_ONCE = 32
"""Most snapshots whose new tags are embedded at a time."""

IDENTITY_WAIT_S = 2.0
"""Wait of `/setup` for the bundle: Label Studio gives up after 3 s."""


class Services:
    """The parts of the server (arguments: see `create_app`).

    Attributes:
        project_cache: project rows in memory.
        event_bytes: of the ledger's events, by project; for the events' thread.
        fetchers: threads that fetch and decode images.
        cpu_pool: threads for short work in between.
        events: the one thread that writes events.
        processes: for large images.
        body_process: for large bodies.
        swap: what is served for each project.
        fetching: by project in work, its share of the fetchers.
    """

    def __init__(
        self, settings: Settings, metrics: ServerMetrics, *, jobs: JobService | None, model: ModelLoader | None
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.model = model or ModelLoader(settings)
        self.project_cache = ProjectCache(settings).start()
        self._database = open_database(settings)
        self.jobs = jobs or JobService(settings, self._database)
        self.ledger = Ledger(self._database)
        self.event_bytes: dict[ProjectKey, int] = {}
        self.shown_log = ShownLog(self.ledger, metrics)
        self.fetchers = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="fetch")
        self.cpu_pool = ThreadPoolExecutor(2, thread_name_prefix="cpu")
        self._builders = ThreadPoolExecutor(2, thread_name_prefix="build")
        self._embedders = ThreadPoolExecutor(EMBEDDED_AT_ONCE, thread_name_prefix="embed")
        self.events = ThreadPoolExecutor(1, thread_name_prefix="events")
        spare_thread = settings.threads is None and settings.cpu_threads() == 2  # one is the network's
        self.batcher = Batcher(settings.batch_size, settings.batch_wait_seconds, metrics, spare_thread=spare_thread)
        self.processes = ProcessPool(settings.cpu_threads(), settings.max_image_pixels)
        self.body_process = ProcessPool(1, settings.max_image_pixels)
        self._limits = fetch_limits(settings)
        self._images = lru_cache(CLIENTS)(self._open_images)
        self._loaders: WeakKeyDictionary[ModelLoader, ImageLoader] = WeakKeyDictionary()
        builders = (self._builders, self._embedders)
        models = self._models = ModelPool(settings, self.model)
        self.snapshots = SnapshotCache(models, self.cpu_pool, *builders, settings.max_snapshots, settings.max_new_tags)
        table = VersionTable(self._database)
        self.swap = VersionController(
            settings.versions_dir, table, self.project_cache, models, self.batcher, self.snapshots, metrics, self.jobs
        )
        self.fetching: WeakValueDictionary[ProjectKey, asyncio.Semaphore] = WeakValueDictionary()
        metrics.ready.set_function(lambda: self.model.state == "ready")
        metrics.evicted.set_function(lambda: self.project_cache.evicted)
        metrics.snapshots.set_function(lambda: len(self.snapshots))
        metrics.projects.set_function(lambda: len(self.project_cache.projects()))

    def start(self) -> None:
        """Begins to load the model, and to watch what is served."""
        self.model.start()
        self.swap.start(look=self.project_cache.problem is None)
        self.shown_log.start()

    def close(self) -> None:
        """Stops the threads; what has begun ends first, what waits is given up."""
        self._models.close()
        self.processes.close()
        self.body_process.close()
        for pool in (self.fetchers, self._builders, self._embedders, self.cpu_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        self.events.shutdown(wait=True)
        self._images.cache_clear()
        for part in (self.swap, self.batcher, self.shown_log, self.project_cache, self._database):
            part.close()

    async def identity(self, wait_s: float = IDENTITY_WAIT_S) -> ModelIdentity:
        """The opened bundle; NotAvailable: it can't be used, or takes longer."""
        if not self.model.identity.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(await_shared(self.model.identity), wait_s)
        return self.model.known()

    def project(self, reference: str) -> Project:
        """The project of "1.1795452148" or its number; anything else is project 0."""
        try:
            number, created = parse_project(reference)
        except InputError:
            number, created = 0, 0
        known = self.project_cache.find(number, created)
        if known is None and created == 0:
            same = [each for each in self.project_cache.projects() if each.key.id == number]
            known = same[0] if len(same) == 1 else None
        return known or Project(ProjectKey("", number, created))

    def image_loader(self, model: ModelLoader) -> ImageLoader:
        """From an image's bytes to tokens of a model's bundle, once that is opened."""
        loader = self._loaders.get(model)
        if loader is None:
            settings, identity = self.settings, model.known()
            loader = self._loaders[model] = open_image_loader(
                *(settings, identity.bundle.preprocessing, identity.encoder_id),
                decoders=settings.cpu_threads(),
                run_in_process=self.processes.decode,
            )
        return loader

    def task_images(self, project: Project) -> TaskImages:
        """Source of a project's images; SettingsError: LABEL_STUDIO_URL can't be used."""
        return self._images(self.project_cache.connection(project), project.hostname)

    def _open_images(self, connection: Connection, hostname: str) -> TaskImages:
        label_studio, trusted = None, connection.trusted
        try:
            if base := connection.base_url:
                token = connection.token
                label_studio = open_label_studio(self.settings, base, token, trusted=trusted, hostname=hostname)
        except SettingsError:
            if trusted and not hostname:
                raise
        return TaskImages(label_studio, limits=self._limits, threads=1)
