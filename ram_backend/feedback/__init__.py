"""Corrections: what people said about the tags of a task, and the ledger of their annotations."""
