"""Webhook events: corrections are written to the ledger, and Start Training becomes a job, before the answer."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from ram_backend.feedback.events import events_of
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.requests import WebhookRequest
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.metrics import ServerMetrics

START_TRAINING = "START_TRAINING"
NO_WORKER = "No worker is connected, so nothing was started: run `ram-backend train PROJECT` instead."
WITHOUT_PROJECT = "The request names no project, so nothing was started."

_log = logging.getLogger(__name__)


def take_event(
    request: WebhookRequest,
    received_at: datetime,
    key: ProjectKey | None,
    *,
    ledger: Ledger,
    jobs: JobService | None,
    metrics: ServerMetrics,
) -> dict[str, Any]:
    """Makes an event durable (protocol section 7). Waits for the database.

    An event that can't be written is answered by an error, which Label Studio doesn't look at. The ledger gets it from
    Label Studio itself, when it is next compared with it.

    Args:
        request: body of the webhook, with any action.
        received_at: when it came, UTC.
        key: the project that it means; None: it names none.
        ledger: of the server's database.
        jobs: where training is asked for; None: no worker is connected.
        metrics: counts events by outcome.

    Returns:
        Fields for the answer, such as `job` and `message` for START_TRAINING.

    Raises:
        DatabaseUnavailable: nothing was written.
    """
    if request.action == START_TRAINING:
        return _start_training(request, key, jobs)
    events = [] if key is None else events_of(request, received_at)
    if key is None or not events:
        return {}
    try:
        new = ledger.record(key, events)
    except Exception:
        metrics.ledger_events.labels("failed").inc(len(events))
        _log.error("project %s: %d events of %s are not in the ledger", key, len(events), request.action[:60])
        raise
    metrics.ledger_events.labels("new").inc(new)
    metrics.ledger_events.labels("known").inc(len(events) - new)
    return {}


def _start_training(request: WebhookRequest, key: ProjectKey | None, jobs: JobService | None) -> dict[str, Any]:
    if jobs is None:
        return {"message": NO_WORKER}
    if key is None:
        return {"message": WITHOUT_PROJECT}
    # Label Studio may start a training before it sends the annotation that is the reason (protocol section 8).
    every = getattr(request.project, "min_annotations_to_start_training", None)
    submitted = isinstance(every, int) and every > 0
    reason = "an annotation was submitted" if submitted else "Start Training was pressed"
    answer = jobs.request(key, reason, debounced=submitted)
    _log.info("project %s: Start Training: %s", key, answer.get("message"))
    return answer
