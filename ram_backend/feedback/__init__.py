"""Corrections, and the ledger of annotations that they are derived from."""
