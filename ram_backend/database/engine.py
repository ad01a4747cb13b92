"""Connections and transactions of SQLite or PostgreSQL; base of all tables."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, DateTime, Integer, MetaData, Text, create_engine, event, text
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from ram_backend.errors import DatabaseUnavailable, SettingsError
from ram_backend.settings import Settings

BUSY_S = 5.0
"""How long a statement waits for another process's lock before it gives up."""

CONNECT_S = 5
_OWNER_ONLY = 0o600
_WRITES = "ram_writes"
_ALLOWED = "Use sqlite:////FOLDER/FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME, or unset it."

_turns: dict[Path, threading.Lock] = {}
"""One per SQLite file, for all engines of this process."""

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name, by which a later migration can change it."""

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""64-bit key that counts up by itself (on SQLite INTEGER)."""

RowId = Annotated[int, mapped_column(BigId, primary_key=True, autoincrement=True)]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware, in UTC, on SQLite too (which keeps no time zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """An aware moment as the database stores it: naive UTC on SQLite."""
        moment = value and value.astimezone(UTC)
        return moment.replace(tzinfo=None) if moment and dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The stored moment, aware, in UTC."""
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


_TYPES: dict[Any, Any] = {int: BigInteger, str: Text, datetime: UtcDateTime, dict[str, Any]: JSON}


class Base(DeclarativeBase):
    """Base of all rows, in whichever room."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = _TYPES


@dataclass(frozen=True)
class Database:
    """An engine and its transactions; connects with the first one.

    Attributes:
        engine: SQLAlchemy's; its messages show no parameters of statements,
            because tokens may be among them.
        display_url: the address without password, for messages.
        file: the SQLite file; None with PostgreSQL.
    """

    engine: Engine
    display_url: str
    file: Path | None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that reads; on SQLite it sees one moment, without waiting.

        Raises:
            DatabaseUnavailable: the database can't be reached or used.
        """
        with self._translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that may write, rolled back where an error leaves it.

        On SQLite it takes the write lock at its start, after threads of this
        process have queued: SQLite polls.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        engine = self.engine.execution_options(**{_WRITES: True})
        with self._translated(), self._turn(), Session(engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now, not with the first statement
            if self.file is None:
                session.execute(text(f"SET LOCAL lock_timeout = '{int(BUSY_S * 1000)}ms'"))
            yield session

    def pragma(self, statement: str) -> None:
        """Runs a PRAGMA of a SQLite file, outside of transactions."""
        if self.file is not None:
            with self._translated(), closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute(f"PRAGMA {statement}")

    def close(self) -> None:
        """Closes all connections; the next transaction opens new ones."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        turn = threading.Lock() if self.file is None else _turns.setdefault(self.file, threading.Lock())
        if not turn.acquire(timeout=BUSY_S):
            raise sqlite3.OperationalError("database is locked")
        try:
            yield
        finally:
            turn.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            wrong_statement = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
            if wrong_statement or isinstance(error, DataError | IntegrityError):
                raise
            raise DatabaseUnavailable(self._message(error)) from error

    def _message(self, error: Exception) -> str:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip().partition("\n")[0].rstrip(".")
        if "locked" in reason:
            remedy = "another process holds it: wait, or stop that one"
        elif self.file is not None:
            remedy = f"see that {self.file.parent} is a folder that you may write to, with space left"
        else:
            remedy = "see that the server runs, and that RAM_DATABASE_URL is right"
        return f"The database {self.display_url} can't be used ({reason}): {remedy}."


def open_database(settings: Settings) -> Database:
    """Makes the engine that the settings ask for; connects to nothing.

    Raises:
        SettingsError: `database_url` is not a URL of a database that can be
            used here, or its driver is not installed.
    """
    if settings.database_url is None:
        return _sqlite(settings.data_dir / "ram_backend.sqlite3")
    try:
        url = make_url(settings.database_url)
    except (ArgumentError, ValueError):
        raise SettingsError(f"RAM_DATABASE_URL is not a database URL. {_ALLOWED}") from None
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise SettingsError(f"RAM_DATABASE_URL: a SQLite database in memory can't persist data. {_ALLOWED}")
        return _sqlite(Path(url.database))
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return _postgresql(url)
    raise SettingsError(f"RAM_DATABASE_URL: {url.drivername!r} can't be used. {_ALLOWED}")


def _sqlite(file: Path) -> Database:
    file = file.absolute()
    engine = create_engine(
        URL.create("sqlite", database=str(file)), connect_args={"timeout": BUSY_S}, hide_parameters=True
    )

    @event.listens_for(engine, "do_connect")
    def _private_file(_dialect: Any, _record: Any, _args: Any, _options: Any) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # never opened: closing another handle on it loses SQLite's locks
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNER_ONLY))
        if file.stat().st_mode & 0o077:  # it holds tokens
            with suppress(PermissionError):
                file.chmod(_OWNER_ONLY)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # `_begin` says where transactions begin
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # survives a power cut
        connection.execute("PRAGMA secure_delete = ON")  # what was deleted is overwritten

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return Database(engine=engine, display_url=str(file), file=file)


def _postgresql(url: URL) -> Database:
    url = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(
            url,
            connect_args={"connect_timeout": CONNECT_S, "application_name": "ram_backend", "tcp_user_timeout": 10_000},
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ImportError:
        remedy = "pip install 'psycopg[binary]>=3.2'"
        raise SettingsError(f"RAM_DATABASE_URL names PostgreSQL, whose driver is not installed: {remedy}.") from None
    display_url = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
    return Database(engine=engine, display_url=display_url, file=None)
