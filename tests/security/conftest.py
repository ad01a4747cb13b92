"""The server with the tiny network."""

from server.conftest import client, database_url, settings, start, words

__all__ = ["client", "database_url", "settings", "start", "words"]
