"""Log lines of workers and of the processes that do their jobs: each with the request that asked for the job."""

from __future__ import annotations

import logging

from ram_backend.logs import LogFormat, configure


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Sends log lines to standard error.

    Args:
        level: "debug", "info", "warning" or "error"; libraries say warnings and errors only.
        log_format: "text" for people, "json" for programs.
    """
    configure(level, log_format, who="worker %(process)d %(request_id)s")
    for name in ("rq.worker", "rq.job"):
        logging.getLogger(name).setLevel(logging.WARNING)
