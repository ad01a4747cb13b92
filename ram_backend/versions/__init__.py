"""Versions: what was learned from a project's corrections, as directories; and which one of each project is served."""

from ram_backend.versions.directory import StoredVersion, Version, open_version, write_version
from ram_backend.versions.lineage import CorrectionsUsed, Lineage
from ram_backend.versions.names import BASE, folder_of, version_path
from ram_backend.versions.notices import CHANNEL, announce
from ram_backend.versions.records import Served, ServedChanges, VersionRecord
from ram_backend.versions.retention import prune
from ram_backend.versions.served import Incumbent, incumbent_of
from ram_backend.versions.table import VersionTable, open_version_table

__all__ = [
    "BASE", "CHANNEL", "CorrectionsUsed", "Incumbent", "Lineage", "Served", "ServedChanges", "StoredVersion", "Version",
    "VersionRecord", "VersionTable", "announce", "folder_of", "incumbent_of", "open_version", "open_version_table",
    "prune", "version_path", "write_version",
]  # fmt: skip
