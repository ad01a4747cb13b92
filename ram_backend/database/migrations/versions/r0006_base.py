"""Base revision: the tables of databases of 0.1.0; new ones are made as the rows are now."""

revision = "0006"
down_revision = None
