"""Log lines of workers and of the processes that do their jobs."""

from __future__ import annotations

import logging
import sys


class _Line(logging.Formatter):
    """Keeps each message on one line; only tracebacks have more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in record.message)
        return super().formatMessage(record)


def configure_logging(level: str) -> None:
    """Sends log lines to standard error.

    Args:
        level: "debug", "info", "warning" or "error"; libraries say warnings and errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(asctime)s %(levelname)s [worker %(process)d] %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ram_backend").setLevel(level.upper())
    for name in ("rq.worker", "rq.job"):
        logging.getLogger(name).setLevel(logging.WARNING)
