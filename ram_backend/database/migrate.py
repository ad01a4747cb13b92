"""Schema creation and Alembic's migrations, under a lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from sqlalchemy import text

from ram_backend.database.engine import Base, Database, open_database
from ram_backend.errors import DatabaseUnavailable
from ram_backend.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

WAIT_S = 60.0
"""How long one process waits for another that migrates."""

_ADVISORY_LOCK = 0x52414D5F4D494752  # any number that nobody else uses in that database
_MIGRATIONS = Path(__file__).parent / "migrations"
_ROWS = ("projects.table", "feedback.ledger", "versions.records", "jobs.job", "jobs.schedules")
"""Modules of the rows, by name: their rooms are above this one."""

_one_at_a_time = threading.Lock()  # alembic's `op` and `context` are global to a process


def open_migrated(settings: Settings) -> Database:
    """The settings' database, made or migrated if needed."""
    database = open_database(settings)
    upgrade(database)
    return database


def upgrade(database: Database) -> None:
    """Makes the tables, or runs the migrations that a database lacks.

    Of several processes one migrates, and the others wait for it. All missing
    migrations happen in one transaction.

    Raises:
        DatabaseUnavailable: it can't be reached or written, or a newer version
            of the package has made it.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(_MIGRATIONS))
    with _one_at_a_time:
        if database.file is None or database.file.exists():
            with database.reading() as session:
                if _is_current(MigrationContext.configure(session.connection()), script, database.display_url):
                    return
        with _one_process(database):
            database.pragma("journal_mode = WAL")  # for good; one process at a time
            with database.writing() as session:  # all migrations happen, or none
                connection = session.connection()
                if database.file is None:
                    connection.execute(text(f"SET LOCAL lock_timeout = '{int(WAIT_S)}s'"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                options = {"fn": lambda revision, _: script._upgrade_revs("head", revision)}
                migration = MigrationContext.configure(connection, opts=options)
                if migration.get_current_revision() is None:
                    for name in _ROWS:
                        import_module(f"ram_backend.{name}")
                    Base.metadata.create_all(connection)
                    connection.execute(Base.metadata.tables["backend"].insert().values(id=1, change=0))
                    migration.stamp(script, "head")
                elif not _is_current(migration, script, database.display_url):
                    with Operations.context(migration):
                        migration.run_migrations()


@contextmanager
def _one_process(database: Database) -> Iterator[None]:
    """A lock file for SQLite, which switches to WAL without a lock."""
    with ExitStack() as locked:
        try:
            if database.file is not None:
                database.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                locked.enter_context(FileLock(f"{database.file}.lock", timeout=WAIT_S))
        except Timeout:
            message = f"Another process has been migrating {database.file} for {WAIT_S:.0f} s: look at it, or stop it."
            raise DatabaseUnavailable(message) from None
        except OSError as error:
            remedy = "set RAM_DATA_DIR to a folder that you may write to"
            raise DatabaseUnavailable(
                f"The database {database.display_url} can't be made ({error}): {remedy}."
            ) from error
        yield


def _is_current(migration: MigrationContext, script: ScriptDirectory, display_url: str) -> bool:
    current = migration.get_current_revision() or ""
    head = script.get_current_head() or ""
    if current > head:
        raise DatabaseUnavailable(
            f"The database {display_url} was made by a newer version of ram-backend (it is at {current}): update this"
            " one, or use another data folder."
        )
    if current and current not in (each.revision for each in script.walk_revisions()):
        raise DatabaseUnavailable(
            f"The database {display_url} is at revision {current}, which is older than this version of ram-backend can"
            f" upgrade (from {script.get_base()} on): start the last version before 0.2 on it once, then this one."
        )
    return current == head
