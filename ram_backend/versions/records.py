"""What the database knows about versions and about what is served, as everybody reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import ACCEPTED
from ram_backend.versions.lineage import Lineage
from ram_backend.versions.names import BASE


@dataclass(frozen=True)
class VersionRecord:
    """What the database knows about a version.

    Attributes:
        key: whose it is.
        name: such as "v0001".
        digest: see `StoredVersion`.
        bundle_digest: of the bundle that it belongs to.
        outcome: what the gate said: "accept", "reject" or "needs_data".
        lineage: where it comes from; None: it can't be read.
        verdict: of the gate, as an object of JSON.
        quarantined: why its directory couldn't be served when a server last tried; None: nothing is known against it.
        removed: its directory was removed, as newer ones came.
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
        key: which project.
        version: its name; None: the bundle's base.
        pinned: nothing may be published over it.
        change: the counter when this was last written; 0: it never was.
        digest: of the version, None for the base.
        bundle_digest: of the bundle that the version belongs to, None for the base.
        quarantined: why a server couldn't serve it when it last tried; None: nothing is known against it.
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
    """What changed since an earlier look.

    Attributes:
        change: the counter now.
        served: the projects whose served version was written since.
    """

    change: int
    served: tuple[Served, ...]
