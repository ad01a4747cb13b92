"""Databases of earlier versions: upgraded with nothing lost, or refused in a sentence."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import JobOptions
from ram_backend.jobs.table import JobTable
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable

DUMP = Path(__file__).with_name("revision_0006.sql")
DROPPED = {"jobs": {"queued_at", "queued_as", "eta_s"}}
ADDED = {"jobs": {"share": 0}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a data folder whose database was written at revision 0006, with jobs in every state."""
    with closing(sqlite3.connect(tmp_path / "ram_backend.sqlite3")) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    return load_settings(data_dir=tmp_path)


def rows(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(settings.data_dir / "ram_backend.sqlite3")) as connection:
        connection.row_factory = sqlite3.Row
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in sorted(tables)}


def test_nothing_is_lost(settings: Settings) -> None:
    before = rows(settings)
    open_migrated(settings)
    after = rows(settings)
    assert before.pop("alembic_version") == [{"version_num": "0006"}]
    assert after.pop("alembic_version") == [{"version_num": "0009"}]
    renewed = {"pinned_host": None, "pinned_by_command": 0, "pinned_token": None}
    assert after.pop("backend") == [before.pop("backend")[0] | renewed], "nobody knows who had pinned that host"
    assert after.keys() - before.keys() == {"schedules"}
    for table, found in before.items():
        dropped, added = DROPPED.get(table, set()), ADDED.get(table, {})
        kept = [{name: row[name] for name in row if name not in dropped} for row in found]
        assert after[table] == [row | added for row in kept], table
    assert {table: len(found) for table, found in after.items() if found} == {
        **{"feedback_events": 5, "jobs": 5, "projects": 2, "served": 1, "versions": 1},
    }


def test_what_was_begun_goes_on(settings: Settings) -> None:
    database = open_migrated(settings)
    table = JobTable(database)
    (key, other) = (each.key for each in ProjectTable(database).changes().projects)
    assert VersionTable(database).served(key).version == "v0001"
    assert Ledger(database).changes_since(key, table.last_attempts(key)[key]).total == 0
    assert [job.state for job in table.jobs(other)] == ["failed"]
    assert [job.kind for job in table.due()] == ["refresh"]
    (expired,) = table.expire()
    claim = table.claim(expired.id, "here/1")
    assert claim is not None
    assert JobOptions.of(claim.options) == JobOptions(("unlabelled",), (3, 4, 9))
    assert (claim.checkpoint or {})["portion"] == [3, 4]


@pytest.mark.parametrize(("revision", "said"), [("0003", "0003, which is older than"), ("9999", "a newer version")])
def test_what_cannot_be_upgraded_is_left_alone(settings: Settings, revision: str, said: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / "ram_backend.sqlite3")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    before = rows(settings)
    with pytest.raises(DatabaseUnavailable, match=said):
        open_migrated(settings)
    assert rows(settings) == before
