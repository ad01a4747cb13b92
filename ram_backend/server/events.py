"""Webhook events: corrections are written to the ledger, and Start Training becomes a job, before the answer."""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from ram_backend.errors import DatabaseUnavailable, QuotaExceeded
from ram_backend.feedback.events import events_of
from ram_backend.labelstudio.requests import WebhookRequest
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.services import Services

MAX_PROJECT_BYTES = 500_000_000
"""Of a project's events, some hundred thousand; comparing the ledger with Label Studio gets what is refused."""

START_TRAINING = "START_TRAINING"
NO_WORKER = "No worker is connected, so nothing was started: run `ram-backend train PROJECT` instead."
UNKNOWN = "No /setup has named that project, so nothing was done: connect it in Label Studio, Settings > Model."
WITHOUT_PROJECT = "The request names no project, so nothing was started."

_log = logging.getLogger(__name__)


async def take_event(services: Services, request: WebhookRequest) -> dict[str, Any]:
    """Answers `/webhook`, once the event is durable (protocol section 7).

    An event that can't be written is answered by an error, which Label Studio doesn't look at. The ledger gets it from
    Label Studio itself, when it is next compared with it.

    Raises:
        DatabaseUnavailable: nothing was written.
        QuotaExceeded: the project has too many events; nothing was written.
    """
    services.metrics.event(request.action)
    take = _start_training if request.action == START_TRAINING else _record
    within = copy_context().run  # what is asked for, and what is logged, names this request
    answer = asyncio.get_running_loop().run_in_executor(services.events, within, take, services, request)
    return {"status": "ok", **await answer}


def _record(services: Services, request: WebhookRequest) -> dict[str, Any]:
    reference = request.project_reference
    events = events_of(request, datetime.now(UTC)) if reference else []
    if not events:
        return {}
    key, count = _known(services, reference), services.metrics.ledger_events.labels
    if key is None:
        services.metrics.unknown_events.inc(len(events))
        return {"message": UNKNOWN}
    try:
        if key not in services.event_bytes:
            services.event_bytes[key] = services.ledger.size(key)
        size = sum(len(each.statement) + len(each.task_data or "") for each in events)
        if services.event_bytes[key] + size > MAX_PROJECT_BYTES:
            raise QuotaExceeded("events", f"Project {key} has {MAX_PROJECT_BYTES:,} bytes of events: no more are kept.")
        new = services.ledger.record(key, events)
    except Exception:
        count("failed").inc(len(events))
        _log.error("project %s: %d events of %s are not in the ledger", key, len(events), request.action[:60])
        raise
    services.event_bytes[key] += size if new else 0
    count("new").inc(new)
    count("known").inc(len(events) - new)
    return {}


def _known(services: Services, reference: str) -> ProjectKey | None:
    """The project of an event; None: no `/setup` has named it.

    Raises:
        DatabaseUnavailable: that can't be known now.
    """
    key = services.project(reference).key
    if services.store.get(key) is not None:
        services.store.mark_used(key)
        return key
    if services.store.problem is not None:
        raise DatabaseUnavailable(services.store.problem)
    return None


def _start_training(services: Services, request: WebhookRequest) -> dict[str, Any]:
    if services.jobs is None:
        return {"message": NO_WORKER}
    if not request.project_reference:
        return {"message": WITHOUT_PROJECT}
    key = _known(services, request.project_reference)
    if key is None:
        return {"message": UNKNOWN}
    # Label Studio may start a training before it sends the annotation that is the reason (protocol section 8).
    every = getattr(request.project, "min_annotations_to_start_training", None)
    submitted = isinstance(every, int) and every > 0
    reason = "an annotation was submitted" if submitted else "Start Training was pressed"
    answer = services.jobs.request(key, reason, debounced=submitted)
    _log.info("project %s: Start Training: %s", key, answer.get("message"))
    return answer
