"""The database: one engine, one metadata, one history of migrations, for every room that keeps rows.

This room knows connections, transactions and migrations; which tables there are is said by the rooms above, whose rows
derive from `Base`. It lies below them because rooms on one floor don't import each other, and project rows, ledger and
served versions have to share transactions.
"""

from ram_backend.database.base import Base, BigId, UtcDateTime
from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade

__all__ = ["Base", "BigId", "Database", "UtcDateTime", "open_database", "upgrade"]
