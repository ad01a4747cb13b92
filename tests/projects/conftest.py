"""A project store, and its database as another process sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ram_backend.database.migrate import open_migrated
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings


@pytest.fixture
def store(settings: Settings) -> Iterator[ProjectCache]:
    with closing(ProjectCache(settings).start()) as opened:
        yield opened


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., ProjectCache]]:
    """Opens stores in one data folder, with other settings each."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(
            closing(ProjectCache(load_settings(data_dir=tmp_path, **changes)).start())
        )


@pytest.fixture
def table(store: ProjectCache, settings: Settings) -> ProjectTable:
    """The same database, as another process sees it."""
    return ProjectTable(open_migrated(settings))
