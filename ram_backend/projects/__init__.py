"""Project rows: what admins and Label Studio settled for each project, read by server, worker and command alike."""

from ram_backend.projects.connection import Connection, connection_of
from ram_backend.projects.keys import ProjectKey, instance_of, parse_project, select
from ram_backend.projects.options import ProjectOptions, merge, parse_options
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore, StoreHealth
from ram_backend.projects.table import ProjectTable, open_table

__all__ = [
    "Connection", "Project", "ProjectKey", "ProjectOptions", "ProjectStore", "ProjectTable", "StoreHealth",
    "connection_of", "instance_of", "merge", "open_table", "parse_options", "parse_project", "select",
]  # fmt: skip
