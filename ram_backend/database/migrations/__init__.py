"""The history of the database, for alembic: one file per step in `versions/`, written by hand, never changed later."""
