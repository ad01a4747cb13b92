"""The database's history for alembic: a file a release, never changed later."""
