"""Corrections: what people said about the tags of a task, and the ledger that keeps it.

A webhook's events (`events_of`) and what was shown go into the `Ledger`; `reconcile` adds what Label Studio's API has
besides; `merge_corrections` makes labels of the current truth.
"""
