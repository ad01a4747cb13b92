"""The RQ worker, its maintenance, and what its jobs do."""
