"""Prometheus metrics of the server, with bounded label cardinality."""

from __future__ import annotations

import logging
import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ram_backend.errors import RamError
from ram_backend.feedback.events import DELETING, DELETING_TASKS, STATING
from ram_backend.jobs.service import JobService

COUNT_S = 15.0
"""Least time between two counts of jobs and corrections."""

ROUTES = frozenset(
    ("/", "/health", "/ready", "/setup", "/predict", "/webhook", "/versions", "/jobs", "/metrics", "/docs",
     "/openapi.json")
)  # fmt: skip
_METHODS = frozenset({"GET", "HEAD", "POST"})
_ACTIONS = STATING | DELETING | DELETING_TASKS | {"START_TRAINING"}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 90)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)

_log = logging.getLogger(__name__)


class ServerMetrics:
    """The server's numbers, in a registry of their own.

    Outcomes: tasks "tagged" or "broken" (an empty prediction); images "tagged",
    or the class of the error; token_lookups "hit" or "miss"; ledger_events
    "new", "known" or "failed"; shown "written" or "lost"; swaps "swapped" or
    "quarantined". What was refused by a quota: "projects", "new_tags" or
    "events".
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        seconds = partial(histogram, buckets=_SECONDS)

        self._requests = counter("ram_requests", "Requests answered.", ["route", "method", "status"])
        self._request_seconds = seconds("ram_request_seconds", "Time of a request.", ["route"])
        self.tasks = counter("ram_tasks", "Tasks answered in /predict: tagged or broken.", ["outcome"])
        self.images = counter("ram_images", "Images of tasks: tagged, or the kind of error.", ["outcome"])
        self.token_lookups = counter("ram_token_cache", "Look-ups in the token cache.", ["outcome"])
        self._events = counter("ram_events", "Events of Label Studio's webhooks.", ["action"])
        self.batch_images = histogram("ram_batch_images", "Images encoded at once.", buckets=_IMAGES)
        self.stage_seconds = seconds("ram_stage_seconds", "Time of a fetch, decode, encode or score.", ["stage"])
        self.ledger_events = counter("ram_ledger_events", "Events for the ledger: new, known or failed.", ["outcome"])
        self.refused = counter("ram_refused", "Requests over a quota: projects, new_tags or events.", ["what"])
        self.unknown_events = counter("ram_unknown_events", "Events of projects that no /setup has named.")
        self.evicted = gauge("ram_projects_evicted", "Projects that were evicted while unused.")
        self.shown = counter("ram_shown", "Records of predictions: written or lost.", ["outcome"])

        self.swaps = counter("ram_version_swaps", "Changes of served versions: swapped or quarantined.", ["outcome"])
        self.swap_seconds = seconds("ram_version_swap_seconds", "Time from noticing a version to serving it.")
        self.versions_served = gauge("ram_versions_served", "Projects that are served a version, not the base.")
        self.quarantined = gauge("ram_versions_quarantined", "Projects whose version can't be served.")

        self._open_jobs = gauge("ram_jobs_open", "Jobs that wait or run.", ["kind", "state"])
        self._pending = gauge("ram_corrections_pending", "Corrections that no training has seen.")
        self.queued = gauge("ram_queued_images", "Images that wait for the encoder.")
        self.predicting = gauge("ram_predictions_in_progress", "Requests to /predict being answered.")
        self.snapshots = gauge("ram_snapshots", "Snapshots in memory.")
        self.projects = gauge("ram_projects", "Projects known.")
        self.ready = gauge("ram_model_ready", "1 when the model is loaded.")
        self._counted_at = -COUNT_S

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            path: of its URL; unknown ones count as "other".
            method: of HTTP; likewise.
            status: of the answer; 0: the caller was gone.
            seconds: from the request to its answer.
        """
        route = path if path in ROUTES else "other"
        self._requests.labels(route, method if method in _METHODS else "other", str(status or "gone")).inc()
        self._request_seconds.labels(route).observe(seconds)

    def event(self, action: str) -> None:
        """Counts an event; an unknown action counts as "other"."""
        self._events.labels(action if action in _ACTIONS else "other").inc()

    def count_jobs(self, jobs: JobService) -> None:
        """Counts open jobs and pending corrections, unless that was done lately."""
        if time.monotonic() - self._counted_at < COUNT_S:
            return
        self._counted_at = time.monotonic()
        try:
            open_jobs, new = jobs.table.open_jobs(), jobs.new_corrections()
            self._open_jobs.clear()
            for (kind, state), count in open_jobs.items():
                self._open_jobs.labels(kind, state).set(count)
            self._pending.set(sum(each.changed for each in new.values()))
        except RamError as error:
            _log.info("jobs and corrections can't be counted: %s", error)
