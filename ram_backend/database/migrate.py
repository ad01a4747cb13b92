"""Migrations with Alembic to the tables of this version, under a lock between processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from sqlalchemy import Connection, text

from ram_backend.database.engine import Database, open_database
from ram_backend.errors import DatabaseUnavailable
from ram_backend.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

WAIT_S = 60.0
"""How long one process waits for another that migrates."""

_ADVISORY_LOCK = 0x52414D5F4D494752  # any number that nobody else uses in that database
_MIGRATIONS = Path(__file__).parent / "migrations"
_one_at_a_time = threading.Lock()  # alembic's `op` and `context` are global to a process


def open_migrated(settings: Settings) -> Database:
    """The settings' database, made or migrated if needed."""
    database = open_database(settings)
    upgrade(database)
    return database


def upgrade(database: Database) -> None:
    """Runs the migrations that a database lacks; only reads where there are none.

    Of several processes that start at once one migrates, and the others wait
    for it. All missing migrations happen in one transaction: a process that is
    killed leaves the database as it was.

    Raises:
        DatabaseUnavailable: it can't be reached or written, or a newer version
            of the package has made it.
    """
    from alembic import command

    with _one_at_a_time:
        if database.file is None or database.file.exists():
            with database.reading() as session:
                if _is_current(session.connection(), database.display_url):
                    return
        with _one_process(database):
            if database.file is not None:
                database.use_wal()
            with database.migrating() as connection:
                if database.file is None:
                    connection.execute(text(f"SET LOCAL lock_timeout = '{int(WAIT_S)}s'"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                if not _is_current(connection, database.display_url):
                    config = _config()
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")


@contextmanager
def _one_process(database: Database) -> Iterator[None]:
    """A lock file for SQLite, whose switch to WAL isn't under its own locks."""
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


def _is_current(connection: Connection, display_url: str) -> bool:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    current = set(MigrationContext.configure(connection).get_current_heads())
    unknown = current - {revision.revision for revision in script.walk_revisions()}
    base = script.get_base()
    if base is not None and (older := {revision for revision in unknown if revision < base}):
        raise DatabaseUnavailable(
            f"The database {display_url} is at revision {', '.join(sorted(older))}, which is older than this version of"
            f" ram-backend can upgrade (from {base} on): start the last version before 0.2 on it once, then this one."
        )
    if unknown:
        raise DatabaseUnavailable(
            f"The database {display_url} was made by a newer version of ram-backend"
            f" (it is at {', '.join(sorted(unknown))}): update this one, or use another data folder."
        )
    return current == set(script.get_heads())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config
