"""Log lines of the server: each with the id of the request that it belongs to."""

from __future__ import annotations

from ram_backend.logs import LogFormat, configure


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Sends log lines to standard error.

    Args:
        level: "debug", "info", "warning" or "error"; libraries say warnings and errors only.
        log_format: "text" for people, "json" for programs.
    """
    configure(level, log_format)
