"""Versions that nobody needs any more leave the disk; what the database knows of them stays."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ram_backend.errors import VersionsUnavailable
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import remove_version
from ram_backend.versions.names import version_path
from ram_backend.versions.table import VersionTable

_log = logging.getLogger(__name__)


def prune(table: VersionTable, versions_dir: Path, key: ProjectKey, keep: int) -> Sequence[str]:
    """Removes the directories of old versions; says which ones went.

    What is served, its nearest ancestors and the latest ones stay. A version is first marked in the database, so nobody
    can roll back to what is about to go; a process that is killed in between leaves the rest to the next call.

    Args:
        table: of the versions.
        versions_dir: where they are.
        key: which project.
        keep: number of the latest versions that stay, at least 1.

    Raises:
        DatabaseUnavailable: nothing was removed.
    """
    gone: list[str] = []
    for name in table.retire(key, keep):
        if version_path(versions_dir, key, name).exists():
            try:
                remove_version(versions_dir, key, name)
                gone.append(name)
            except VersionsUnavailable as error:
                _log.warning("%s", error)
    return gone
