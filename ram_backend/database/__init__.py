"""The database: one engine, metadata and history of migrations for the tables of all rooms."""
