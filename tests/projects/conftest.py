"""A project store, and its database as another process sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from ram_backend.database.migrate import open_migrated
from ram_backend.projects.store import ProjectStore
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings


@pytest.fixture
def store(settings: Settings) -> Iterator[ProjectStore]:
    with closing(ProjectStore(settings).start()) as opened:
        yield opened


@pytest.fixture
def table(store: ProjectStore, settings: Settings) -> ProjectTable:
    """The same database, as another process sees it."""
    return ProjectTable(open_migrated(settings))
