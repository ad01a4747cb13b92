"""A project as `/setup` brings it, its store, and its database as another process sees it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until

from ram_backend.database.migrate import open_migrated
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project, Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings

HOST, OTHER_HOST, REF = "http://localhost:8080", "http://other:8080", "1.1795452148"
KEY = ProjectKey(HOST, 1, 1795452148)
CONFIG = '<View><Image name="image" value="$image"/><Choices name="tags" toName="image"/></View>'
TOKEN = "0123456789abcdef0123456789abcdef01234567"


def setup(store: ProjectCache, project: str = REF, **changes: Any) -> Project:
    given = {"hostname": HOST, "label_config": CONFIG, "access_token": TOKEN, "extra_params": None, **changes}
    key = store.key(project, given.pop("hostname"))
    return store.upsert(Setup.read(key, **given))


def settle(store: ProjectCache) -> None:
    """Waits until nothing is pending."""
    wait_until(lambda: not store.pending)


def options(threshold: float) -> Callable[[ProjectOptions], ProjectOptions]:
    return lambda _: ProjectOptions(threshold=threshold)


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
