"""From webhook to ledger: what annotators said is on disk before Label Studio is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.events import events_of
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.requests import EventProject, ProjectRef
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.events import NO_WORKER, START_TRAINING, Event
from ram_backend.server.metrics import ServerMetrics

WITHOUT_PROJECT = "The request names no project, so nothing was started."

KeyOf = Callable[[ProjectRef], ProjectKey]
_log = logging.getLogger(__name__)


class LedgerSink:
    """Writes corrections to the ledger, and takes Start Training to the job service. Implements `EventSink`.

    Where the database is away the event is not taken in: the answer is an error, which Label Studio doesn't look at.
    The ledger gets it from Label Studio itself, when it is next compared with it.

    Args:
        ledger: of the server's database.
        key_of: the project that a webhook means, which names no Label Studio.
        metrics: told what became of events.
        jobs: where training is asked for; None: there is none.
    """

    def __init__(self, ledger: Ledger, key_of: KeyOf, metrics: ServerMetrics, jobs: JobService | None = None) -> None:
        self._ledger = ledger
        self._key_of = key_of
        self._metrics = metrics
        self._jobs = jobs

    def accept(self, event: Event) -> Mapping[str, Any] | None:
        """See `EventSink`.

        Raises:
            DatabaseUnavailable: the event was not written.
        """
        if event.action == START_TRAINING:
            return self._start_training(event)
        if event.project is None:
            return None
        events = events_of(event.request, event.received_at)
        if not events:
            return None
        key = self._key_of(event.project)
        try:
            new = self._ledger.record(key, events)
        except DatabaseUnavailable:
            self._metrics.ledger(failed=len(events))
            _log.error("project %s: %d events of %s are not in the ledger", key, len(events), event.action[:60])
            raise
        except Exception:
            self._metrics.ledger(failed=len(events))
            raise
        self._metrics.ledger(new=new, known=len(events) - new)
        return None

    def _start_training(self, event: Event) -> Mapping[str, Any]:
        if self._jobs is None:
            return {"message": NO_WORKER}
        if event.project is None:
            return {"message": WITHOUT_PROJECT}
        key = self._key_of(event.project)
        if _is_inside_a_submit(event):
            said = self._jobs.request(key, "an annotation was submitted", debounced=True)
        else:
            said = self._jobs.request(key, "Start Training was pressed")
        _log.info("project %s: Start Training: %s", key, said.get("message"))
        return said


def _is_inside_a_submit(event: Event) -> bool:
    """Whether Label Studio may have said this before it sends the annotation that it is about (protocol section 8)."""
    project = event.request.project
    every = project.min_annotations_to_start_training if isinstance(project, EventProject) else None
    return isinstance(every, int) and every > 0
