"""Images of tasks: an LRU cache of HTTP clients, and the loader (fetch, hash, cache look-up, decode)."""

from __future__ import annotations

import time
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import SettingsError
from ram_backend.labelstudio.client import LabelStudio, fetch_limits, open_label_studio
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.projects.project import Connection, Project
from ram_backend.projects.store import ProjectStore
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.processes import WorkerProcesses
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.token_cache import TokenCache

FloatArray = NDArray[np.float32]

CLIENTS = 64
"""Clients in memory: the connections of one that is evicted are closed when the last fetch with it has ended."""


class ServerImages:
    """Fetches images of projects and loads them for the model's bundle, from many threads at a time.

    Args:
        store: says how each project's Label Studio is reached.
        model: whose preprocessing holds.
        settings: limits, and which internal hosts are allowed.
        metrics: counts hits and misses, and times the steps.
        processes: decode what would hold up this one.

    Raises:
        SettingsError: RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """

    def __init__(
        self,
        store: ProjectStore,
        model: Model,
        settings: Settings,
        metrics: ServerMetrics,
        processes: WorkerProcesses,
    ) -> None:
        self._store = store
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._processes = processes
        self._limits = fetch_limits(settings)
        self._client = lru_cache(CLIENTS)(self._open)

    def client(self, project: Project) -> TaskImages:
        """Where a project's images come from."""
        return self._client(self._store.connection(project), project.hostname)

    def load(self, client: TaskImages, reference: ImageReference) -> LoadedImage:
        """Fetches an image and finds its tokens in the cache, or decodes it for the encoder.

        Raises:
            ImageError: it can't be tagged; asking again won't help.
            ImageUnreachable: asking again later may help.
        """
        with self._metrics.stage_seconds.labels("fetch").time():
            data = client.fetch(reference)
        started = time.perf_counter()
        image = self._loader.load(data, name=f"image of task {reference.task}")
        self._metrics.token_lookups.labels("miss" if image.tokens is None else "hit").inc()
        if image.tokens is None:
            self._metrics.stage_seconds.labels("decode").observe(time.perf_counter() - started)
        return image

    def store(self, image: LoadedImage, tokens: FloatArray) -> FloatArray:
        """Caches new tokens (T, D); returns those to score, rounded as they are cached."""
        return self._loader.store(image, tokens)

    def close(self) -> None:
        """Closes all clients, once nobody fetches with them."""
        self._client.cache_clear()

    @cached_property
    def _loader(self) -> ImageLoader:
        settings, identity = self._settings, self._model.known()
        return ImageLoader(
            identity.bundle.preprocessing,
            identity.encoder_id,
            TokenCache(settings.cache_dir / "tokens", settings.token_cache_bytes),
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
            decoders=settings.cpu_threads(),
            elsewhere=self._processes.run,
        )

    def _open(self, connection: Connection, hostname: str) -> TaskImages:
        label_studio: LabelStudio | None = None
        if connection.base_url:
            try:
                label_studio = open_label_studio(
                    self._settings, connection.base_url, connection.token, trusted=connection.trusted, hostname=hostname
                )
            except SettingsError:
                if connection.trusted and not hostname:
                    raise
        return TaskImages(label_studio, limits=self._limits, threads=1)
