"""The RQ worker and what its jobs do: train, push predictions, maintenance."""
