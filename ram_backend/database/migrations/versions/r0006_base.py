"""Base revision: the tables of databases that 0.1.0 has made; new databases are made at once as the rows are now."""

revision = "0006"
down_revision = None
