"""Stand-ins for what surrounds the backend: HTTP servers, one Label Studio, PostgreSQL, the stock host."""
