"""What a project is really served, once the database's word is compared with the disk and the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ram_backend.errors import VersionDamaged
from ram_backend.models.bundle import Bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import Version, open_version
from ram_backend.versions.names import version_path
from ram_backend.versions.records import Served
from ram_backend.versions.table import VersionTable


@dataclass(frozen=True)
class Incumbent:
    """What a candidate is compared with.

    Attributes:
        served: what the database says; `served.version` is what `publish` wants as `expected`.
        version: opened and checked; None: the bundle's base is what people get.
        problem: why the base stands in for the version that the database names, in one line; None: it doesn't.
    """

    served: Served
    version: Version | None
    problem: str | None = None


def incumbent_of(table: VersionTable, versions_dir: Path, key: ProjectKey, bundle: Bundle) -> Incumbent:
    """What a project is served now, as a server that starts now would serve it.

    Raises:
        DatabaseUnavailable: see the message.
    """
    served = table.served(key)
    if served.version is None:
        return Incumbent(served, None)
    try:
        path = version_path(versions_dir, key, served.version)
        return Incumbent(served, open_version(path, bundle, key=key, digest=served.digest))
    except VersionDamaged as error:
        return Incumbent(served, None, str(error))
