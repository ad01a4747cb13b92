"""The database: one engine, one metadata, one history of migrations, for every room that keeps rows.

This room knows connections, transactions and migrations; the rooms above define the tables, whose rows derive from
`Base`. It lies below them because rooms on one floor don't import each other, and project rows, ledger and served
versions have to share transactions.
"""
