"""The database's history, for alembic: one file a release in `versions/`, written by hand, never changed after it."""
