"""Data engine: labels that are probably wrong, tags that are probably missing, and their review."""
