"""Versions and served versions: the two tables, and their rows as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.base import Base, BigId, UtcDateTime
from ram_backend.errors import VersionDamaged
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import OfProject
from ram_backend.versions.directory import ACCEPTED, BASE, name_of
from ram_backend.versions.lineage import Lineage


@dataclass(frozen=True)
class VersionRecord:
    """A version according to the database.

    Attributes:
        key: its project.
        name: such as "v0001".
        digest: see `StoredVersion`.
        bundle_digest: of the bundle that it belongs to.
        outcome: of the gate: "accept", "reject" or "needs_data".
        lineage: how it came about; None: it can't be read.
        verdict: of the gate, as an object of JSON.
        quarantined: why its directory couldn't be served when a server last tried; None: it could.
        removed: its directory was removed by `prune`.
        recorded_at: when it was recorded.
    """

    key: ProjectKey
    name: str
    digest: str
    bundle_digest: str
    outcome: str
    lineage: Lineage | None
    verdict: Mapping[str, Any]
    quarantined: str | None
    removed: bool
    recorded_at: datetime

    @property
    def state(self) -> str:
        """One of "accepted", "rejected", "needs data", "quarantined", "removed", for people."""
        if self.removed:
            return "removed"
        if self.quarantined is not None:
            return "quarantined"
        return {ACCEPTED: "accepted", "reject": "rejected", "needs_data": "needs data"}.get(self.outcome, self.outcome)


@dataclass(frozen=True)
class Served:
    """What a project is served.

    Attributes:
        key: the project.
        version: its name; None: the bundle's base.
        pinned: nothing may be published over it.
        change: the counter when this was last written; 0: never.
        digest: of the version, None for the base.
        bundle_digest: of the bundle that the version belongs to, None for the base.
        quarantined: why a server couldn't serve it when it last tried; None: it could.
    """

    key: ProjectKey
    version: str | None = None
    pinned: bool = False
    change: int = 0
    digest: str | None = None
    bundle_digest: str | None = None
    quarantined: str | None = None

    @property
    def name(self) -> str:
        """The version's name, or "base"."""
        return self.version or BASE


@dataclass(frozen=True)
class ServedChanges:
    """What was published, rolled back or pinned since an earlier value of the counter.

    Attributes:
        change: the counter now.
        served: the projects whose served version was written since.
    """

    change: int
    served: tuple[Served, ...]


class VersionRow(OfProject, Base):
    """One version of a project, accepted or not.

    `quarantined` is why its directory can't be served; `removed` says that it was removed on purpose.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created", "number"),)

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    number: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Text)
    bundle_digest: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    lineage: Mapped[dict[str, Any]] = mapped_column(JSON)
    verdict: Mapped[dict[str, Any]] = mapped_column(JSON)
    quarantined: Mapped[str | None] = mapped_column(Text)
    removed: Mapped[bool] = mapped_column(Boolean)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)

    @property
    def name(self) -> str:
        """The version's name."""
        return name_of(self.number)

    def record(self) -> VersionRecord:
        """The row as a value; its lineage is None where it can't be read."""
        try:
            lineage: Lineage | None = Lineage.from_json(self.lineage)
        except VersionDamaged:
            lineage = None
        return VersionRecord(
            key=self.key,
            name=self.name,
            digest=self.digest,
            bundle_digest=self.bundle_digest,
            outcome=self.outcome,
            lineage=lineage,
            verdict=self.verdict,
            quarantined=self.quarantined,
            removed=self.removed,
            recorded_at=self.recorded_at,
        )


class ServedRow(OfProject, Base):
    """What a project is served: a version's name, or NULL for the bundle's base. No row: nothing was ever published.

    `change` is the backend's counter (see `projects.rows`) when the row was last written.
    """

    __tablename__ = "served"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    version: Mapped[str | None] = mapped_column(Text)
    pinned: Mapped[bool] = mapped_column(Boolean)
    change: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
