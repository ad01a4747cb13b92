"""The database: one engine and one history of migrations for all tables."""
