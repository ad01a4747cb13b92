"""The database's history, for alembic: a file a release in `versions/`, never changed after it."""
