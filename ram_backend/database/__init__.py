"""The database: one engine, one metadata and one history of migrations for the tables of all rooms."""
