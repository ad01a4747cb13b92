"""Jobs in either kind of database, and projects to do them for."""

from collections.abc import Iterator

import pytest
from support.jobs import KEY, connect

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    there = open_migrated(settings)
    connect(there, KEY)
    yield there
    there.close()


@pytest.fixture
def queue(database: Database) -> JobTable:
    return JobTable(database)
