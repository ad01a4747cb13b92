"""The database itself: made, migrated, private, shared, in step with the rows; what is said where it can't be used."""

import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from ram_backend.database.engine import Base, Database, open_database
from ram_backend.database.migrate import open_migrated, upgrade
from ram_backend.errors import DatabaseUnavailable, SettingsError
from ram_backend.projects.table import ProjectRow
from ram_backend.settings import Settings, load_settings


def row(**fields: object) -> ProjectRow:
    moment = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2)))
    texts = {"instance": "http://a", "label_config": "", "access_token": "secret-token"}
    numbers = dict.fromkeys(("project_id", "created", "revision", "change"), 1)
    moments = {"first_seen_at": moment, "updated_at": moment}
    return ProjectRow(**{**texts, **numbers, **moments, "extra_params": {}, "admin_options": {}, **fields})


def test_a_new_database_has_the_tables_of_all_rooms_whoever_makes_it(settings: Settings) -> None:
    program = (
        "from ram_backend.database.migrate import open_migrated\n"
        "from ram_backend.settings import Settings, load_settings\n"
        f"open_migrated(load_settings(data_dir={str(settings.data_dir)!r}, database_url={settings.database_url!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with open_database(settings).reading() as session:
        found = inspect(session.connection()).get_table_names()
    rooms = ["feedback_events", "jobs", "offered_tags", "projects", "schedules", "served", "shown", "task_images"]
    assert sorted(found) == ["alembic_version", "backend", *rooms, "versions"]


def test_migrations_make_exactly_the_tables_of_the_rows(database: Database) -> None:
    with database.writing() as session:  # as they were at the base revision
        for statement in (
            "DROP TABLE schedules",
            "ALTER TABLE backend DROP COLUMN pinned_by_command",
            "ALTER TABLE backend DROP COLUMN pinned_token",
            "DROP INDEX uq_jobs_open",
            "ALTER TABLE jobs DROP COLUMN share",
            "CREATE INDEX uq_jobs_open ON jobs (kind)",
            *(f"ALTER TABLE jobs ADD COLUMN {name} TEXT" for name in ("queued_at", "queued_as", "eta_s")),
            "UPDATE alembic_version SET version_num = '0006'",
        ):
            session.execute(text(statement))
    upgrade(database)
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_error_rolls_back_and_shows_no_parameters(database: Database) -> None:
    def write_twice() -> None:
        with database.writing() as session:
            session.execute(text("CREATE TABLE half (id INTEGER)"))
            session.add(row())
            session.flush()
            session.add(row())

    with pytest.raises(IntegrityError) as caught:
        write_twice()
    assert "secret-token" not in str(caught.value)
    assert "half" not in inspect(database.engine).get_table_names(), "of a migration that failed"
    with database.writing() as session:
        assert session.query(ProjectRow).count() == 0
        session.add(row())
    with database.reading() as session:
        assert session.query(ProjectRow).one().updated_at == datetime(2026, 11, 23, 10, tzinfo=UTC)


def test_the_sqlite_file_is_private_logged_ahead_and_checks_references(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    database = open_database(load_settings(data_dir=folder))
    assert not folder.exists()
    upgrade(database)
    with database.writing() as session:
        session.add(row())
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.sqlite3*") if path.suffix != ".lock"
        }
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    assert set(modes) == {"ram_backend.sqlite3", "ram_backend.sqlite3-wal", "ram_backend.sqlite3-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "others could hold its lock files"
    database.close()
    file = tmp_path / "own.db"
    file.touch(0o644)
    open_migrated(load_settings(database_url=f"sqlite:///{file}")).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it becomes private"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:secret@host/name", "'mysql' can't be used"),
        ("no url, secret", "not a database URL"),
        ("postgresql://user:secret@host:port/name", "not a database URL"),
        ("postgresql+asyncpg://user:secret@host/name", "can't be used"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        open_database(load_settings(database_url=url))
    assert "secret" not in str(caught.value) + repr(load_settings(database_url=url))
    assert "postgresql://USER" in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    database = open_database(load_settings(database_url="postgresql://user:secret@127.0.0.1:1/name?password=secret"))
    with pytest.raises(DatabaseUnavailable, match=r"postgresql://user:\*\*\*@127.0.0.1:1/name can't be used") as caught:
        upgrade(database)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("file", "said"), [("data", "RAM_DATA_DIR"), ("data/ram_backend.sqlite3", "not a database")])
def test_a_file_that_is_no_folder_or_no_database(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("no database at all, but long enough to be looked at" * 50)
    with pytest.raises(DatabaseUnavailable, match=said):
        open_migrated(load_settings(data_dir=tmp_path / "data"))


def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_backend.database.engine.BUSY_S", 0.05)
    database = open_migrated(load_settings(data_dir=tmp_path))
    other = sqlite3.connect(tmp_path / "ram_backend.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    upgrade(database)
    with pytest.raises(DatabaseUnavailable, match=r"locked.*another process holds it"), database.writing():
        pass
    other.close()
    with database.writing() as session:
        session.add(row())
    database.close()


ELSEWHERE = """
import sys
from pathlib import Path
from sqlalchemy import text
from ram_backend.database.engine import open_database
from ram_backend.settings import load_settings
database = open_database(load_settings(data_dir=Path(sys.argv[1])))
with database.writing() as session:
    session.execute(text("INSERT INTO notes VALUES (2)"))
    print(session.execute(text("SELECT count(*) FROM notes")).scalar())
database.close()
"""


def test_processes_that_come_and_go_part_nobody_from_the_file(tmp_path: Path) -> None:
    """A process that closes any file handle of its own on a database loses SQLite's locks on it: then the next process
    that goes takes itself for the last one, and removes the log that this one still writes to."""
    database, count = open_migrated(load_settings(data_dir=tmp_path)), text("SELECT count(*) FROM notes")
    with database.writing() as session:
        session.execute(text("CREATE TABLE notes (number INTEGER)"))
    with database.reading() as first, database.reading() as second:  # two connections at the same time
        assert [session.execute(count).scalar_one() for session in (first, second)] == [0, 0]
    command = [sys.executable, "-c", ELSEWHERE, tmp_path]
    for round_ in range(1, 4):
        with database.writing() as session:
            session.execute(text("INSERT INTO notes VALUES (1)"))
        found = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
        assert found == [f"{3 * round_ - 1}\n", f"{3 * round_}\n"]
        with database.reading() as session:
            assert session.execute(count).scalar_one() == 3 * round_
    database.close()
