"""Composition root of the server: its parts, made when it starts and closed when it stops."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from ram_backend.database.engine import open_database
from ram_backend.errors import InputError, RamError
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.service import JobService
from ram_backend.projects.keys import ProjectKey, parse_project
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore
from ram_backend.server.batcher import Batcher
from ram_backend.server.images import ServerImages
from ram_backend.server.loaded_version import VersionLoader
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity, SharedTextEncoder, has_spare_lane, shared
from ram_backend.server.processes import WorkerProcesses
from ram_backend.server.shown_log import ShownLog
from ram_backend.server.snapshots import SnapshotCache
from ram_backend.server.swap import VersionSwap
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable

IDENTITY_WAIT_S = 2.0
"""How long `/setup` waits until the bundle is opened: Label Studio gives up after 3 s."""

_log = logging.getLogger(__name__)


class Services:
    """The parts of the server, and the look-ups that its request handlers share.

    Args:
        settings: of the server.
        metrics: of this app.
        jobs: where training is asked for; None: no worker is connected.
        model: None: the settings' one, opened and loaded in the background.
    """

    def __init__(
        self, settings: Settings, metrics: ServerMetrics, *, jobs: JobService | None = None, model: Model | None = None
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.jobs = jobs
        self.model = model or Model(settings)
        self.store = ProjectStore(settings).start()
        self._database = open_database(settings)
        self.ledger = Ledger(self._database)
        self.event_bytes: dict[ProjectKey, int] = {}  # of the ledger's events, by project; the events' thread's own
        self.shown_log = ShownLog(self.ledger, metrics)
        self.fetchers = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="fetch")
        self.cpu_pool = ThreadPoolExecutor(2, thread_name_prefix="keep")
        self._builders = ThreadPoolExecutor(2, thread_name_prefix="build")
        self.events = ThreadPoolExecutor(1, thread_name_prefix="events")
        self.batcher = Batcher(
            settings.batch_size, settings.batch_wait_seconds, metrics, spare_lane=has_spare_lane(settings)
        )
        self._text_encoder = SharedTextEncoder(self.model, settings)
        self.processes = WorkerProcesses(settings.cpu_threads() + 2)  # decoders, one large image, one large body
        self.images = ServerImages(self.store, self.model, settings, metrics, self.processes)
        loader = VersionLoader(settings.versions_dir, self.model, self.batcher)
        self.snapshots = SnapshotCache(
            self.model,
            self._text_encoder,
            resolvers=self.cpu_pool,
            builders=self._builders,
            limit=settings.max_snapshots,
            max_new_tags=settings.max_new_tags,
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
        self.fetching: WeakValueDictionary[ProjectKey, asyncio.Semaphore] = WeakValueDictionary()
        metrics.ready.set_function(lambda: self.model.state == "ready")
        metrics.evicted.set_function(lambda: self.store.evicted)
        metrics.projects.set_function(lambda: len(self.store.projects()))

    def start(self) -> None:
        """Begins to load the model, to watch what is served, and to build the snapshots of the known projects."""
        self.model.start()
        self.swap.start(look=self.store.problem is None)
        self.shown_log.start()
        threading.Thread(target=self._warm, name="warm", daemon=True).start()

    def close(self) -> None:
        """Stops the threads. What is being computed ends first, what waits is given up."""
        self.model.close()
        self.processes.close()
        self._text_encoder.close()
        for pool in (self.fetchers, self._builders, self.cpu_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        self.events.shutdown(wait=True)
        self.swap.close()
        self.batcher.close()
        self.shown_log.close()
        self.images.close()
        self.store.close()
        self._database.close()

    async def identity(self, wait_s: float = IDENTITY_WAIT_S) -> ModelIdentity:
        """The bundle, once it is opened.

        Raises:
            NotAvailable: it can't be used, or that takes longer.
        """
        if not self.model.identity.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(shared(self.model.identity), wait_s)
        return self.model.known()

    def project(self, reference: str) -> Project:
        """The project of a request; one that no `/setup` has named has no options and no Label Studio of its own.

        Args:
            reference: "1.1795452148", or its number; anything else is project 0.
        """
        try:
            number, created = parse_project(reference)
        except InputError:
            number, created = 0, 0
        known = self.store.find(number, created)
        if known is None and created == 0:
            same = [each for each in self.store.projects() if each.key.id == number]
            known = same[0] if len(same) == 1 else None
        return known or Project(ProjectKey("", number, created))

    def _warm(self) -> None:
        """Builds the snapshots of the latest projects, so that their first tasks after a start needn't wait."""
        try:
            self.model.identity.result()
            known = sorted(self.store.projects(), key=lambda each: each.updated_at or datetime.min.replace(tzinfo=UTC))
            for project in known[-self.settings.max_snapshots // 2 :]:
                self.swap.warm(project)
        except (RamError, RuntimeError, CancelledError) as error:  # the model says so, or the server is going down
            _log.info("Snapshots are not built beforehand: %s", error)
