"""Structured logging: one line per event, as text or JSON, with the id of its request.

A JSON line has `time` (UTC, ISO 8601), `level`, `logger`, `message`, `process`
(its number), `request` and `error` (a traceback) where there is one, and the
fields of `extra={"fields": {...}}`, such as `route`, `status` and `ms`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is answered, or that asked for this job; in log lines."""

_TEXT = "%(asctime)s %(levelname)s [%(process)d %(request_id)s] %(name)s: %(message)s"
_OWN = frozenset({"time", "level", "logger", "message", "process", "request", "error"})


@contextmanager
def with_request_id(request: str | None) -> Iterator[None]:
    """Log lines and requests for jobs within belong to that request; None: to none."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


class TextLine(logging.Formatter):
    """Keeps each message on one line, whatever is in it; only tracebacks have more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without its traceback."""
        escaped = (each if each.isprintable() else ascii(each)[1:-1] for each in record.message)
        record.message = "".join(escaped)
        record.request_id = request_id.get() or "-"
        return super().formatMessage(record)


class JsonLine(logging.Formatter):
    """One JSON object a line; a traceback is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if (request := request_id.get()) is not None:
            line["request"] = request
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= {str(name): value for name, value in fields.items() if name not in _OWN}
        return json.dumps(line, default=str)


def configure(level: str, log_format: LogFormat = "text") -> None:
    """Sends log lines to standard error; of libraries, whatever the level, warnings and errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if log_format == "json" else TextLine(_TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("rq.worker", "rq.job"):  # rq has a level of its own
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ram_backend").setLevel(level.upper())
