"""A table of versions, in either kind of database."""

from __future__ import annotations

import pytest

from ram_backend.database.engine import Database
from ram_backend.versions.table import VersionTable


@pytest.fixture
def table(database: Database) -> VersionTable:
    return VersionTable(database)
