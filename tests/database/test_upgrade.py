"""Databases of earlier versions: work goes on, or they are refused in a sentence; that nothing is lost: golden/."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.jobs import claimed

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import JobOptions
from ram_backend.jobs.table import JobTable
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable

DUMP = Path(__file__).with_name("revision_0006.sql")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a data folder whose database was written at revision 0006, with jobs in every state."""
    with closing(sqlite3.connect(tmp_path / "ram_backend.sqlite3")) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    return load_settings(data_dir=tmp_path)


def content(settings: Settings) -> list[str]:
    with closing(sqlite3.connect(settings.data_dir / "ram_backend.sqlite3")) as connection:
        return list(connection.iterdump())


def test_what_was_begun_goes_on(settings: Settings) -> None:
    database = open_migrated(settings)
    table = JobTable(database)
    (key, other) = (each.key for each in ProjectTable(database).changes().projects)
    assert VersionTable(database).served(key).version == "v0001"
    assert Ledger(database).changes_since(key, table.last_attempts(key)[key]).total == 0
    assert [job.state for job in table.jobs(other)] == ["failed"]
    assert [job.kind for job in table.due()] == ["refresh"]
    (expired,) = table.expire()
    claim = claimed(table, expired.id)
    assert JobOptions.of(claim.options) == JobOptions(("unlabelled",), (3, 4, 9))
    assert (claim.checkpoint or {})["portion"] == [3, 4]


@pytest.mark.parametrize(("revision", "said"), [("0003", "0003, which is older than"), ("9999", "a newer version")])
def test_what_cannot_be_upgraded_is_left_alone(settings: Settings, revision: str, said: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / "ram_backend.sqlite3")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    before = content(settings)
    with pytest.raises(DatabaseUnavailable, match=said):
        open_migrated(settings)
    assert content(settings) == before
