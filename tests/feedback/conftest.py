"""A ledger, in either kind of database."""

from __future__ import annotations

import pytest

from ram_backend.database.engine import Database
from ram_backend.feedback.ledger import Ledger


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)
