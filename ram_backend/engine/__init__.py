"""Data engine: labels that are probably wrong or missing, and their review."""
