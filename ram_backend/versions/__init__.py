"""Versions: what was learned from a project's corrections, as directories; and which one of each project is served."""
