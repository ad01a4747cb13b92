"""ORM models of versions and served versions; lineage of a version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ram_backend.database.engine import Base, RowId
from ram_backend.errors import VersionDamaged
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import OfProject

BASE = "base"
"""Name of the bundle itself, without any version."""

ACCEPTED = "accept"
"""The only outcome of the gate with which a version may be served."""

_NAME = re.compile(r"v(\d{4,9})")


def name_of(number: int) -> str:
    """Name of a project's n-th version, n >= 1."""
    return f"v{number:04d}"


def number_of(name: str) -> int | None:
    """The number in a version's name; None: it is not the name of a version."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and name == name_of(int(match[1])) else None


@dataclass(frozen=True)
class CorrectionsUsed:
    """The corrections that a version was trained on.

    Attributes:
        count: number of corrected images.
        first_event: smallest id of the ledger's events behind them; 0: none.
        last_event: largest such id.
        seen: id of the ledger's last event of any kind at that time.
        withdrawn: corrections of the parent's training that were edited or
            withdrawn since.
        added: corrections that the parent was not trained on.
    """

    count: int
    first_event: int
    last_event: int
    seen: int
    hash: str
    withdrawn: int = 0
    added: int = 0


class Lineage(BaseModel):
    """How a version came about.

    Attributes:
        parent: name of the version that was served when it was made; None: the
            bundle's base.
        bundle_digest: 64 hex digits.
        own_bundle: `bundles use` chose the bundle for the project, or for an
            ancestor; False: it is that of the settings.
        encoder_id: of the network that made the image tokens.
        trainer, params: its name and settings.
        metrics_before: metrics of the parent on the gate's images, by name.
        metrics_after: metrics of this version on the same images.
        gate_share: share of the corrected images that were held out for the
            gate, in [0, 1].
        code_version: of this package.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, protected_namespaces=())

    parent: str | None
    bundle: str = Field(validation_alias=AliasPath("bundle", "name"))
    bundle_digest: str = Field(validation_alias=AliasPath("bundle", "digest"))
    own_bundle: bool = False
    encoder_id: str
    corrections: CorrectionsUsed
    trainer: str = Field(validation_alias="recipe")
    params: dict[str, Any]
    seed: int
    metrics_before: dict[str, float] = Field(validation_alias=AliasPath("metrics", "before"))
    metrics_after: dict[str, float] = Field(validation_alias=AliasPath("metrics", "after"))
    gate_share: float
    code_version: str
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields = self.model_dump()
        fields["recipe"] = fields.pop("trainer")
        if not self.own_bundle:
            del fields["own_bundle"]
        bundle = {"name": fields.pop("bundle"), "digest": fields.pop("bundle_digest")}
        metrics = {"before": fields.pop("metrics_before"), "after": fields.pop("metrics_after")}
        created_at = self.created_at.astimezone(UTC).isoformat()
        return {**fields, "bundle": bundle, "metrics": metrics, "created_at": created_at}

    @classmethod
    def from_json(cls, value: Any) -> Lineage:
        """Reads what `to_json` wrote.

        Raises:
            VersionDamaged: a field is missing or of the wrong type.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise VersionDamaged(f"A version's lineage can't be read ({field}: {first['msg']}): train again.") from None

    @field_validator("corrections", mode="before")
    @classmethod
    def _with_seen(cls, value: Any) -> Any:
        return {"seen": value.get("last_event"), **value} if isinstance(value, dict) else value  # early ones lack it


class VersionRecord(OfProject, Base):
    """One version of a project, accepted or not.

    Attributes:
        digest: names the behaviour of bundle and version together.
        outcome: of the gate: "accept", "reject" or "needs_data".
        quarantined: why its directory couldn't be served when a server last
            tried; None: it could.
        removed: its directory was removed by `prune`.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created", "number"),)

    row_id: Mapped[RowId]
    number: Mapped[int]
    digest: Mapped[str]
    bundle_digest: Mapped[str]
    outcome: Mapped[str]
    lineage_json: Mapped[dict[str, Any]] = mapped_column("lineage")
    verdict: Mapped[dict[str, Any]]
    quarantined: Mapped[str | None]
    removed: Mapped[bool]
    recorded_at: Mapped[datetime]

    @property
    def name(self) -> str:
        """The version's name, such as "v0001"."""
        return name_of(self.number)

    @property
    def lineage(self) -> Lineage | None:
        """How it came about; None: it can't be read."""
        try:
            return Lineage.from_json(self.lineage_json)
        except VersionDamaged:
            return None

    @property
    def state(self) -> str:
        """One of "accepted", "rejected", "needs data", "quarantined", "removed"."""
        if self.removed:
            return "removed"
        if self.quarantined is not None:
            return "quarantined"
        return {ACCEPTED: "accepted", "reject": "rejected", "needs_data": "needs data"}.get(self.outcome, self.outcome)


class ServedRow(OfProject, Base):
    """What a project is served: a version's name, NULL for the base. No row: nothing.

    `change` is the backend's counter (see `projects.table`) when the row was
    last written.
    """

    __tablename__ = "served"
    __table_args__ = (UniqueConstraint("instance", "project_id", "created"), Index(None, "change"))

    row_id: Mapped[RowId]
    version: Mapped[str | None]
    pinned: Mapped[bool]
    change: Mapped[int]
    updated_at: Mapped[datetime]


@dataclass(frozen=True)
class ServedVersion:
    """What a project is served.

    Attributes:
        version: its name; None: the bundle's base.
        pinned: nothing may be published over it.
        digest: of the version, None for the base.
        bundle_digest: of the bundle that the version belongs to, None for the
            base.
        quarantined: why a server couldn't serve it when it last tried; None: it
            could.
        bundle: name of the bundle that was chosen for the project; None: that
            of the settings.
        learned: number of photos that the version has learned from.
    """

    key: ProjectKey
    version: str | None = None
    pinned: bool = False
    digest: str | None = None
    bundle_digest: str | None = None
    quarantined: str | None = None
    bundle: str | None = None
    learned: int = 0

    @property
    def name(self) -> str:
        """The version's name, or "base"."""
        return self.version or BASE


class ServedChanges(NamedTuple):
    """The counter now, what has changed since, all projects with a row; None: as then."""

    change: int
    served: tuple[ServedVersion, ...]
    keys: frozenset[ProjectKey] | None = None
