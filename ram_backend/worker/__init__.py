"""The RQ worker, its maintenance, and what its jobs do: train, refresh, prelabel, engine."""
