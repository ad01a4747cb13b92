"""The HTTP server that Label Studio talks to: one process, one model, all projects."""
