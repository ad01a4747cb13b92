"""Events of Label Studio's webhooks: to whom they are handed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ram_backend.labelstudio.requests import ProjectRef, WebhookRequest

START_TRAINING = "START_TRAINING"
NO_WORKER = "No worker is connected, so nothing was started: run `ram-backend train PROJECT` instead."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One webhook call (protocol section 7).

    Attributes:
        action: "ANNOTATION_CREATED", ...; any text, also one that nobody has heard of.
        project: which one; None where the body names none.
        received_at: when it came, UTC.
        request: all of it.
    """

    action: str
    project: ProjectRef | None
    received_at: datetime
    request: WebhookRequest = field(repr=False)


class EventSink(Protocol):
    """Takes events in. It is called before the webhook is answered, in a thread, one event at a time."""

    def accept(self, event: Event) -> Mapping[str, Any] | None:
        """Makes an event durable, within milliseconds.

        Returns:
            Fields for the answer, such as `job` and `message` for START_TRAINING; None: nothing to say.
        """
        ...


class LoggingEventSink:
    """Notes that an event came, and keeps nothing of it."""

    def accept(self, event: Event) -> Mapping[str, Any] | None:
        """See `EventSink`."""
        _log.info("event %s of project %s", repr(event.action[:60]), event.project)
        if event.action == START_TRAINING:
            return {"message": NO_WORKER}
        return None
