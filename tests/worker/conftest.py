"""Jobs in either kind of database, and projects to do them for: as for the rows alone."""

from __future__ import annotations

from jobs.conftest import database, queue

__all__ = ["database", "queue"]
