"""The HTTP server that Label Studio talks to: one process, one model, all projects."""

from ram_backend.server.app import create_app
from ram_backend.server.events import Event, EventSink, LoggingEventSink
from ram_backend.server.ledger_sink import LedgerSink
from ram_backend.server.middleware import Access
from ram_backend.server.model import ModelIdentity, identify
from ram_backend.server.running import bind, prepare, run
from ram_backend.server.training_desk import TrainingDesk

__all__ = [
    "Access",
    "Event",
    "EventSink",
    "LedgerSink",
    "LoggingEventSink",
    "ModelIdentity",
    "TrainingDesk",
    "bind",
    "create_app",
    "identify",
    "prepare",
    "run",
]
