"""Rows of versions and of what is served, inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ram_backend.errors import VersionDamaged, VersionNotFound, VersionRefused
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import BackendRow, key_columns, of_project
from ram_backend.versions.directory import ACCEPTED
from ram_backend.versions.lineage import Lineage
from ram_backend.versions.names import BASE, name_of, number_of
from ram_backend.versions.records import Served, VersionRecord
from ram_backend.versions.rows import ServedRow, VersionRow


def take_turn(session: Session) -> BackendRow:
    """The counter's row, held until the transaction ends (SQLite: the transaction holds the whole database)."""
    return session.get_one(BackendRow, 1, with_for_update=True, populate_existing=True)


def version_row(session: Session, key: ProjectKey, name: str) -> VersionRow | None:
    """The row of a version; None: there is none of that name."""
    number = number_of(name)
    if number is None:
        return None
    return session.scalars(
        select(VersionRow).where(of_project(VersionRow, key), VersionRow.number == number)
    ).one_or_none()


def served_row(session: Session, key: ProjectKey) -> ServedRow | None:
    """The row that says what a project is served; None: nothing was ever said."""
    return session.scalars(select(ServedRow).where(of_project(ServedRow, key))).one_or_none()


def known_row(session: Session, key: ProjectKey, name: str) -> VersionRow:
    """The row of a version.

    Raises:
        VersionNotFound: there is none of that name; names those that there are.
    """
    row = version_row(session, key, name)
    if row is None:
        numbers = session.scalars(
            select(VersionRow.number).where(of_project(VersionRow, key)).order_by(VersionRow.number)
        )
        there = ", ".join([BASE, *map(name_of, numbers)][-20:])
        raise VersionNotFound(f"Project {key} has no version {name[:40]!r} (there: {there}).")
    return row


def servable_row(session: Session, key: ProjectKey, name: str) -> VersionRow:
    """The row of a version that may be served.

    Raises:
        VersionNotFound: there is none of that name.
        VersionRefused: the gate didn't accept it, or it is removed or quarantined.
    """
    row = known_row(session, key, name)
    if row.outcome != ACCEPTED:
        reason = str(row.verdict.get("reason") or row.outcome).rstrip(".")
        raise VersionRefused(f"{name} of project {key} was not accepted by the gate ({reason}): it is never served.")
    if row.removed:
        raise VersionRefused(f"{name} of project {key} was removed from disk, as newer ones came: choose another one.")
    if row.quarantined is not None:
        raise VersionRefused(f"{name} of project {key} is quarantined: {row.quarantined}")
    return row


def line_of(rows: Mapping[str, VersionRow], name: str | None, length: int) -> Sequence[str]:
    """A version, its parent, its parent's parent, ..."""
    line: list[str] = []
    while name is not None and name in rows and name not in line and len(line) < length:
        line.append(name)
        name = rows[name].lineage.get("parent")
    return line


def serve(session: Session, counter: BackendRow, key: ProjectKey, name: str | None, *, pinned: bool) -> Served:
    """Has a version (None: the base) served from now on, as the counter's next change. The counter's row is held."""
    row = served_row(session, key)
    if row is None:
        row = ServedRow(**key_columns(key))
        session.add(row)
    counter.change += 1
    row.version, row.pinned = name, pinned
    row.change, row.updated_at = counter.change, datetime.now(UTC)
    session.flush()
    return served_from(session, row)


def served_from(session: Session, row: ServedRow) -> Served:
    """What a row says, with what is known of the version that it names."""
    version = None if row.version is None else version_row(session, row.key, row.version)
    return Served(
        key=row.key,
        version=row.version,
        pinned=row.pinned,
        change=row.change,
        digest=None if version is None else version.digest,
        bundle_digest=None if version is None else version.bundle_digest,
        quarantined=None if version is None else version.quarantined,
    )


def record_from(row: VersionRow) -> VersionRecord:
    """What a row says."""
    try:
        lineage: Lineage | None = Lineage.from_json(row.lineage)
    except VersionDamaged:
        lineage = None
    return VersionRecord(
        key=row.key,
        name=name_of(row.number),
        digest=row.digest,
        bundle_digest=row.bundle_digest,
        outcome=row.outcome,
        lineage=lineage,
        verdict=row.verdict,
        quarantined=row.quarantined,
        removed=row.removed,
        recorded_at=row.recorded_at,
    )
