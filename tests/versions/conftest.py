"""A table of versions, in either kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    there = open_migrated(settings)
    yield there
    there.close()


@pytest.fixture
def table(database: Database) -> VersionTable:
    return VersionTable(database)
