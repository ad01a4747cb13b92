"""Which versions there are, and which one of each project is served: rows, changed by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.errors import DatabaseUnavailable, ProjectPinned, VersionConflict
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import BackendRow, key_columns, of_project
from ram_backend.settings import Settings
from ram_backend.versions.directory import StoredVersion
from ram_backend.versions.names import BASE, name_of
from ram_backend.versions.queries import (
    known_row,
    line_of,
    record_from,
    servable_row,
    serve,
    served_from,
    served_row,
    take_turn,
    version_row,
)
from ram_backend.versions.records import Served, ServedChanges, VersionRecord
from ram_backend.versions.rows import ServedRow, VersionRow

Guard = Callable[[Session], None]


class VersionTable:
    """Versions and what is served, for whoever can wait: workers, commands, and the server's watching thread.

    Whatever changes what is served first takes the row of the backend's counter, so that writers of all processes go
    one after another, and who reads the counter knows whether there is anything new.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_number(self, key: ProjectKey) -> int:
        """A number that no version of the project has in the database: for `write_version`.

        Raises:
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() as session:
            highest = session.scalar(select(func.max(VersionRow.number)).where(of_project(VersionRow, key)))
            return (highest or 0) + 1

    def record(self, stored: StoredVersion, *, session: Session | None = None) -> VersionRecord:
        """Notes a version that was written, accepted or not; it isn't served by that. Once more changes nothing.

        Args:
            stored: what `write_version` returned.
            session: of a transaction that the caller commits; None: one of its own.

        Raises:
            VersionConflict: another version has that name.
            DatabaseUnavailable: nothing was written.
        """
        with self._writing(session) as own:
            take_turn(own)
            row = version_row(own, stored.key, stored.name)
            if row is None:
                row = VersionRow(
                    **key_columns(stored.key),
                    number=stored.number,
                    digest=stored.digest,
                    bundle_digest=stored.bundle_digest,
                    outcome=stored.outcome,
                    lineage=stored.lineage.to_json(),
                    verdict=dict(stored.verdict),
                    quarantined=None,
                    removed=False,
                    recorded_at=datetime.now(UTC),
                )
                own.add(row)
                own.flush()
            elif row.digest != stored.digest:
                raise VersionConflict(
                    f"Project {stored.key} has another {stored.name} already: write the version under another number."
                )
            return record_from(row)

    def list(self, key: ProjectKey) -> Sequence[VersionRecord]:
        """All versions of a project, oldest first.

        Raises:
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() as session:
            rows = session.scalars(select(VersionRow).where(of_project(VersionRow, key)).order_by(VersionRow.number))
            return [record_from(row) for row in rows]

    def get(self, key: ProjectKey, name: str) -> VersionRecord:
        """One version of a project.

        Raises:
            VersionNotFound: there is none of that name; names those that there are.
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() as session:
            return record_from(known_row(session, key, name))

    def served(self, key: ProjectKey, *, session: Session | None = None) -> Served:
        """What a project is served.

        Raises:
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() if session is None else nullcontext(session) as own:
            row = served_row(own, key)
            return Served(key) if row is None else served_from(own, row)

    def changes(self, since: int = -1) -> ServedChanges:
        """What projects are served, of those written after the counter had the value `since`; all of them by default.

        Raises:
            DatabaseUnavailable: see the message.
        """
        with self._database.reading() as session:
            counter = session.scalar(select(BackendRow.change).where(BackendRow.id == 1))
            if counter is None:
                raise DatabaseUnavailable(f"The database {self._database.shown} lacks its one row about the backend.")
            if counter == since:
                return ServedChanges(since, ())
            after = since if counter > since else -1  # another database than before, a restored one for instance
            rows = session.scalars(select(ServedRow).where(ServedRow.change > after).order_by(ServedRow.change)).all()
            return ServedChanges(counter, tuple(served_from(session, row) for row in rows))

    def publish(self, key: ProjectKey, version: str, *, expected: str | None, guard: Guard | None = None) -> Served:
        """Has an accepted version served from now on, if what is served is still what it was compared with.

        Args:
            key: which project.
            version: name of a recorded version.
            expected: name of what was served when the gate compared; None: the base.
            guard: called in the same transaction before anything is written; what it raises leaves all as it was.

        Raises:
            VersionConflict: something else is served meanwhile: compare with that one.
            ProjectPinned: what is served was pinned by hand.
            VersionRefused: the gate didn't accept it, or it is quarantined or removed.
            VersionNotFound: it was never recorded.
            DatabaseUnavailable: nothing was written.
        """
        with self._database.writing() as session:
            counter = take_turn(session)
            if guard is not None:
                guard(session)
            row = servable_row(session, key, version)
            now = self.served(key, session=session)
            if now.pinned:
                raise ProjectPinned(
                    f"Project {key} is pinned to {now.name}: {version} is kept and not served. `ram-backend versions"
                    " unpin` ends that."
                )
            if now.version != expected:
                raise VersionConflict(
                    f"Project {key} is served {now.name} by now, and {version} was compared with {expected or BASE}:"
                    " compare again."
                )
            return serve(session, counter, key, name_of(row.number), pinned=False)

    def roll_back(self, key: ProjectKey, to: str | None) -> Served:
        """Has an earlier version, or the base, served from now on, and pins it.

        Args:
            key: which project.
            to: name of a version; None: the bundle's base.

        Raises:
            VersionRefused, VersionNotFound, DatabaseUnavailable: as `publish`; nothing was written.
        """
        with self._database.writing() as session:
            counter = take_turn(session)
            name = None if to is None else name_of(servable_row(session, key, to).number)
            return serve(session, counter, key, name, pinned=True)

    def pin(self, key: ProjectKey, *, pinned: bool = True) -> Served:
        """Keeps what is served as it is, until it is unpinned or something else is rolled back to.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        with self._database.writing() as session:
            counter = take_turn(session)
            now = self.served(key, session=session)
            return now if now.pinned == pinned else serve(session, counter, key, now.version, pinned=pinned)

    def unpin(self, key: ProjectKey) -> Served:
        """Lets versions be published again; what is served stays until then.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        return self.pin(key, pinned=False)

    def quarantine(self, key: ProjectKey, name: str, reason: str | None) -> None:
        """Notes why a version's directory can't be served; None: it can be again. A version without a row has no note.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        with self._database.writing() as session:
            row = version_row(session, key, name)
            if row is not None:
                row.quarantined = reason

    def retire(self, key: ProjectKey, keep: int) -> Sequence[str]:
        """Marks the versions that nobody needs any more as removed; says which ones are.

        Kept are the latest ones, what is served, and its nearest ancestors.

        Args:
            key: which project.
            keep: number of the latest versions that stay; as many of the served one and its ancestors stay, too.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        with self._database.writing() as session:
            take_turn(session)
            found = session.scalars(
                select(VersionRow).where(of_project(VersionRow, key)).order_by(VersionRow.number)
            ).all()
            rows = {name_of(row.number): row for row in found}
            needed = {*list(rows)[-keep:], *line_of(rows, self.served(key, session=session).version, keep)}
            for each, row in rows.items():
                row.removed = row.removed or each not in needed
            return [each for each, row in rows.items() if row.removed]

    @contextmanager
    def _writing(self, session: Session | None) -> Iterator[Session]:
        if session is not None:
            yield session
        else:
            with self._database.writing() as own:
                yield own


def open_version_table(settings: Settings) -> VersionTable:
    """The versions of the settings' database, which is made or migrated where needed.

    Raises:
        SettingsError, DatabaseUnavailable: see the message.
    """
    database = open_database(settings)
    upgrade(database)
    return VersionTable(database)
