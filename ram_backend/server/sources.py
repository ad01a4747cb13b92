"""Where the images of each project come from: one client per Label Studio, kept with its connections and logins."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ram_backend.errors import SettingsError
from ram_backend.images.fetch import FetchLimits
from ram_backend.images.guard import AddressGuard
from ram_backend.labelstudio.client import LabelStudio, open_label_studio
from ram_backend.labelstudio.task_images import TaskImages
from ram_backend.projects.connection import Connection
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore
from ram_backend.settings import Settings

KEPT = 64


class ImageSources:
    """Image sources by connection; the ones used least recently go.

    Args:
        store: says how each project's Label Studio is reached.
        settings: limits, and which internal hosts are allowed.

    Raises:
        SettingsError: RAM_ALLOWED_IMAGE_HOSTS can't be used.
    """

    def __init__(self, store: ProjectStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._guard = AddressGuard.parse(settings.allowed_image_hosts)
        self._limits = FetchLimits(
            max_bytes=settings.max_image_bytes, seconds=settings.fetch_seconds, connections=settings.fetch_threads
        )
        self._kept: OrderedDict[tuple[Connection, str], TaskImages] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, project: Project) -> TaskImages:
        """Where a project's images come from."""
        key = (self._store.connection(project), project.hostname)
        with self._lock:
            source = self._kept.get(key)
            if source is None:
                source = self._kept[key] = self._open(*key)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return source

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
        return TaskImages(label_studio, limits=self._limits, guard=self._guard, threads=1)
