"""Job rows: request, claim, heartbeat, finish. A job is a row in the database; RQ carries its id and may lose it."""
