"""Model registry: versions, and which one is served, by compare-and-swap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ram_backend.database.engine import Database
from ram_backend.errors import (
    ProjectPinned,
    VersionConflict,
    VersionDamaged,
    VersionNotFound,
    VersionRefused,
    VersionsUnavailable,
)
from ram_backend.models.bundle import Bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import BackendRow, key_columns, locked_counter, of_project
from ram_backend.versions.directory import Version, folder_of, open_version, remove_version, version_path
from ram_backend.versions.records import (
    ACCEPTED,
    BASE,
    ServedChanges,
    ServedRow,
    ServedVersion,
    VersionRecord,
    number_of,
)

_log = logging.getLogger(__name__)


class VersionTable:
    """Versions and what is served; DatabaseUnavailable: nothing was read or written.

    Every change of what is served first locks the row of the backend's counter,
    which serialises writers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_number(self, key: ProjectKey) -> int:
        """A number that no version of the project has yet, for `write_version`."""
        with self._database.reading() as session:
            highest = session.scalar(select(func.max(VersionRecord.number)).where(of_project(VersionRecord, key)))
            return (highest or 0) + 1

    def record(self, stored: Version, *, session: Session | None = None) -> VersionRecord:
        """Records a written version without serving it. Repeating it changes nothing.

        Without the session of a transaction that the caller commits, it has a
        transaction of its own.

        Raises:
            VersionConflict: another version has that name.
        """
        with self._database.writing() if session is None else nullcontext(session) as opened:
            locked_counter(opened)
            row = _version_row(opened, stored.key, stored.name)
            if row is None:
                row = VersionRecord(
                    **key_columns(stored.key),
                    number=number_of(stored.name),
                    digest=stored.digest,
                    bundle_digest=stored.lineage.bundle_digest,
                    outcome=stored.outcome,
                    lineage_json=stored.lineage.to_json(),
                    verdict=dict(stored.verdict),
                    quarantined=None,
                    removed=False,
                    recorded_at=datetime.now(UTC),
                )
                opened.add(row)
                opened.flush()
            elif row.digest != stored.digest:
                raise VersionConflict(f"Project {stored.key} has another {stored.name} already: take another number.")
            return row

    def list(self, key: ProjectKey) -> Sequence[VersionRecord]:
        """All versions of a project, oldest first."""
        with self._database.reading() as session:
            return _version_rows(session, key)

    def get(self, key: ProjectKey, name: str) -> VersionRecord:
        """One version of a project.

        Raises:
            VersionNotFound: the project has no version of that name; the
                message lists those that it has.
        """
        with self._database.reading() as session:
            return _known_row(session, key, name)

    def served(self, key: ProjectKey, *, session: Session | None = None) -> ServedVersion:
        """What a project is served."""
        with self._database.reading() if session is None else nullcontext(session) as opened:
            row = _served_row(opened, key)
            return ServedVersion(key) if row is None else _served(opened, row)

    def changes(self, since: int = -1) -> ServedChanges:
        """What projects are served, if written after `since`; by default of all."""
        with self._database.reading() as session:
            counter = session.get_one(BackendRow, 1).change
            if counter == since:
                return ServedChanges(since, ())
            after = since if counter > since else -1  # the counter went back: a restored database
            rows = session.scalars(select(ServedRow).where(ServedRow.change > after).order_by(ServedRow.change)).all()
            keys = session.execute(select(ServedRow.instance, ServedRow.project_id, ServedRow.created))
            served = tuple(_served(session, row) for row in rows)
            return ServedChanges(counter, served, frozenset(ProjectKey(*row) for row in keys))

    def publish(
        self,
        key: ProjectKey,
        version: str,
        *,
        expected: str | None,
        in_transaction: Callable[[Session], None] | None = None,
    ) -> ServedVersion:
        """Publishes an accepted version only if the incumbent of its gate is still served.

        The incumbent is `expected` (None: the base). `in_transaction` is called
        before anything is written; if it raises, nothing is.

        Raises:
            VersionConflict: something else is served meanwhile: compare with
                that.
            ProjectPinned: what is served was pinned by hand.
            VersionRefused: the gate didn't accept the version, or it is
                quarantined or removed.
            VersionNotFound: the version was never recorded.
        """
        with self._database.writing() as session:
            counter = locked_counter(session)
            if in_transaction is not None:
                in_transaction(session)
            name = _servable_row(session, key, version).name
            now = self.served(key, session=session)
            if now.pinned:
                raise ProjectPinned(
                    f"Project {key} is pinned to {now.name}: {version} is kept and not served, until `versions unpin`."
                )
            if now.version != expected:
                raise VersionConflict(f"Project {key} is served {now.name} by now: compare again.")
            return _serve(session, counter, key, name, pinned=False)

    def roll_back(self, key: ProjectKey, to: str | None) -> ServedVersion:
        """Serves an earlier version, or the base (None), and pins it.

        Raises:
            VersionRefused, VersionNotFound: as `publish`; nothing was written.
        """
        with self._database.writing() as session:
            counter = locked_counter(session)
            name = None if to is None else _servable_row(session, key, to).name
            return _serve(session, counter, key, name, pinned=True)

    def pin(self, key: ProjectKey, *, pinned: bool = True) -> ServedVersion:
        """Keeps what is served until unpinned or rolled back; not `pinned`: ends that."""
        with self._database.writing() as session:
            counter = locked_counter(session)
            now = self.served(key, session=session)
            return now if now.pinned == pinned else _serve(session, counter, key, now.version, pinned=pinned)

    def quarantine(self, key: ProjectKey, name: str, reason: str | None) -> None:
        """Records why a version's directory can't be served; None: it can."""
        with self._database.writing() as session:
            row = _version_row(session, key, name)
            if row is not None:
                row.quarantined = reason

    def retire(self, key: ProjectKey, keep: int) -> Sequence[str]:
        """Marks versions as removed but the latest `keep`, and `keep` of the served line.

        Returns:
            The names of all versions that are marked.
        """
        with self._database.writing() as session:
            locked_counter(session)
            rows = {row.name: row for row in _version_rows(session, key)}
            needed = {*list(rows)[-keep:], *_line_of(rows, self.served(key, session=session).version, keep)}
            for name, row in rows.items():
                row.removed = row.removed or name not in needed
            return [name for name, row in rows.items() if row.removed]


def incumbent_of(
    table: VersionTable, versions_dir: Path, key: ProjectKey, bundle: Bundle | None
) -> tuple[ServedVersion, Version | None]:
    """What is served by the database, and by a server with that bundle."""
    served = table.served(key)
    if served.version is None:
        return served, None
    try:
        path = version_path(versions_dir, key, served.version)
        return served, open_version(path, bundle, key=key, digest=served.digest)
    except VersionDamaged as error:
        _log.warning("%s", error)
        return served, None


def prune(table: VersionTable, versions_dir: Path, key: ProjectKey, keep: int) -> Sequence[str]:
    """Retention: removes directories of retired and of never recorded versions.

    A version is marked in the database before its directory goes, so that
    nobody rolls back to it meanwhile. No other training of the project may run.
    Returns the names of the removed directories.
    """
    table.retire(key, keep)
    needed = {record.name for record in table.list(key) if not record.removed}
    removed: list[str] = []
    for path in sorted((versions_dir / folder_of(key)).glob("v*")):
        if path.name not in needed:
            try:
                remove_version(versions_dir, key, path.name)
                removed.append(path.name)
            except VersionsUnavailable as error:
                _log.warning("%s", error)
    return removed


def _version_rows(session: Session, key: ProjectKey) -> Sequence[VersionRecord]:
    return session.scalars(
        select(VersionRecord).where(of_project(VersionRecord, key)).order_by(VersionRecord.number)
    ).all()


def _version_row(session: Session, key: ProjectKey, name: str) -> VersionRecord | None:
    number = number_of(name)
    if number is None:
        return None
    wanted = select(VersionRecord).where(of_project(VersionRecord, key), VersionRecord.number == number)
    return session.scalars(wanted).one_or_none()


def _known_row(session: Session, key: ProjectKey, name: str) -> VersionRecord:
    row = _version_row(session, key, name)
    if row is None:
        names = [BASE, *(each.name for each in _version_rows(session, key))]
        raise VersionNotFound(f"Project {key} has no version {name[:40]!r} (known: {', '.join(names[-20:])}).")
    return row


def _servable_row(session: Session, key: ProjectKey, name: str) -> VersionRecord:
    """The row of a servable version; raises VersionNotFound or VersionRefused."""
    row = _known_row(session, key, name)
    if row.outcome != ACCEPTED:
        reason = str(row.verdict.get("reason") or row.outcome).rstrip(".")
        raise VersionRefused(f"{name} of project {key} was not accepted by the gate ({reason}): it is never served.")
    if row.removed:
        raise VersionRefused(f"{name} of project {key} was removed from disk: choose another one.")
    if row.quarantined is not None:
        raise VersionRefused(f"{name} of project {key} is quarantined: {row.quarantined}")
    return row


def _line_of(rows: Mapping[str, VersionRecord], name: str | None, length: int) -> Sequence[str]:
    """A version and its ancestors, at most `length` in all."""
    line: list[str] = []
    while name is not None and name in rows and name not in line and len(line) < length:
        line.append(name)
        name = rows[name].lineage_json.get("parent")
    return line


def _served_row(session: Session, key: ProjectKey) -> ServedRow | None:
    return session.scalars(select(ServedRow).where(of_project(ServedRow, key))).one_or_none()


def _served(session: Session, row: ServedRow) -> ServedVersion:
    """A row as a value, with the digests of the version that it names."""
    version = None if row.version is None else _version_row(session, row.key, row.version)
    if version is None:
        return ServedVersion(row.key, row.version, row.pinned)
    lineage = version.lineage_json
    bundle = lineage["bundle"]["name"] if lineage.get("own_bundle") else None
    learned = lineage.get("corrections", {}).get("count", 0)  # of a database of 0.1.0 it may be unknown
    known = (version.digest, version.bundle_digest, version.quarantined, bundle, learned)
    return ServedVersion(row.key, row.version, row.pinned, *known)


def _serve(session: Session, counter: BackendRow, key: ProjectKey, name: str | None, *, pinned: bool) -> ServedVersion:
    """Writes what is served (None: the base) as the counter's next change."""
    row = _served_row(session, key)
    if row is None:
        row = ServedRow(**key_columns(key))
        session.add(row)
    counter.change += 1
    row.version, row.pinned = name, pinned
    row.change, row.updated_at = counter.change, datetime.now(UTC)
    session.flush()
    return _served(session, row)
