"""Log lines: one per event, with the id of the request that it belongs to."""

from __future__ import annotations

import logging
import re
import sys

from ram_backend.server.gate import request_id

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class _Line(logging.Formatter):
    """Keeps each message on one line, whatever is in it; only tracebacks have more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", record.message)
        record.request_id = request_id.get()
        return super().formatMessage(record)


def configure_logging(level: str) -> None:
    """Sends log lines to standard error.

    Args:
        level: "debug", "info", "warning" or "error"; libraries say warnings and errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ram_backend").setLevel(level.upper())
