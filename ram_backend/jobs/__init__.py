"""Job rows: request, claim, heartbeat, finish. RQ carries a job's id."""
