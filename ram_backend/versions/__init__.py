"""Versions of projects as directories, and which one is served."""
