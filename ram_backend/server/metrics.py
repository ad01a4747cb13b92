"""Prometheus metrics of the server: one registry per app; numbers of the database are counted beside."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ram_backend.errors import ImageError, ImageUnreachable, RamError
from ram_backend.jobs.service import JobService

ROUTES = frozenset(
    {
        "/",
        "/health",
        "/ready",
        "/setup",
        "/predict",
        "/webhook",
        "/versions",
        "/jobs",
        "/metrics",
        "/docs",
        "/openapi.json",
    }
)
Stage = Literal["fetch", "decode", "encode", "score"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST"})
_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_CREATED",
        "PROJECT_UPDATED",
        "PROJECT_DELETED",
        "LABEL_LINK_CREATED",
        "LABEL_LINK_UPDATED",
        "LABEL_LINK_DELETED",
        "START_TRAINING",
    }
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 90)


class ServerMetrics:
    """The server's numbers. Labels take few values only, whatever is asked."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("ram_requests", "Requests answered.", ["route", "method", "status"], registry=registry)
        self._seconds = Histogram(
            "ram_request_seconds", "Time from a request to its answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._tasks = Counter(
            "ram_tasks", "Tasks answered in /predict, by what they got.", ["outcome"], registry=registry
        )
        self._images = Counter(
            "ram_images", "Images of tasks: tagged, or the kind of error.", ["outcome"], registry=registry
        )
        self._tokens = Counter("ram_token_cache", "Look-ups in the token cache.", ["outcome"], registry=registry)
        self._events = Counter("ram_events", "Events of Label Studio's webhooks.", ["action"], registry=registry)
        self._batches = Histogram(
            "ram_batch_images", "Images encoded at once.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._stages = Histogram(
            "ram_stage_seconds",
            "Time of one step of a prediction: fetch or decode one image, encode a batch, score with a head.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._ledger = Counter(
            "ram_ledger_events", "What became of events that the ledger keeps.", ["outcome"], registry=registry
        )
        self._shown = Counter(
            "ram_shown", "Predictions whose record was written, or lost.", ["outcome"], registry=registry
        )
        self._swaps = Counter(
            "ram_version_swaps",
            "Changes of what projects are served, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._swap_seconds = Histogram(
            "ram_version_swap_seconds",
            "Time from noticing another version to serving it.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.versions_served = Gauge(
            "ram_versions_served", "Projects that are served a version, not the bundle's base.", registry=registry
        )
        self.quarantined = Gauge(
            "ram_versions_quarantined", "Projects whose version can't be served.", registry=registry
        )
        self._open_jobs = Gauge(
            "ram_jobs_open", "Jobs of all projects that wait or run.", ["kind", "state"], registry=registry
        )
        self.pending = Gauge(
            "ram_corrections_pending",
            "Corrections of all projects that have changed since the last attempt to learn from them.",
            registry=registry,
        )
        self.queued = Gauge("ram_queued_images", "Images that wait for the encoder.", registry=registry)
        self.predicting = Gauge(
            "ram_predictions_in_progress", "Requests to /predict being answered.", registry=registry
        )
        self.snapshots = Gauge("ram_snapshots", "Snapshots in memory.", registry=registry)
        self.projects = Gauge("ram_projects", "Projects known.", registry=registry)
        self.ready = Gauge("ram_model_ready", "1 when the model is loaded.", registry=registry)

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Counts a request; status 0: the caller was gone."""
        route = path if path in ROUTES else "other"
        self._requests.labels(route, method if method in _METHODS else "other", str(status or "gone")).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, error: ImageError | ImageUnreachable | None) -> None:
        """Counts an image: tagged, or why not."""
        self._images.labels("tagged" if error is None else type(error).__name__).inc()

    def task(self, *, tagged: bool) -> None:
        """Counts a task: it got tags (perhaps none of them on), or the empty prediction of a broken image."""
        self._tasks.labels("tagged" if tagged else "broken").inc()

    def token_lookup(self, *, hit: bool) -> None:
        """Counts a look-up in the token cache."""
        self._tokens.labels("hit" if hit else "miss").inc()

    def batch(self, images: int) -> None:
        """Counts a batch of the encoder."""
        self._batches.observe(images)

    def stage(self, name: Stage) -> AbstractContextManager[Any]:
        """Times one step of a prediction, from entering to leaving."""
        return self._stages.labels(name).time()

    def took(self, name: Stage, seconds: float) -> None:
        """Notes how long one step of a prediction took."""
        self._stages.labels(name).observe(seconds)

    def open_jobs(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Takes in how many jobs there are of each kind and state; of all others there are none."""
        self._open_jobs.clear()
        for (kind, state), count in counts.items():
            self._open_jobs.labels(kind, state).set(count)

    def event(self, action: str) -> None:
        """Counts an event; actions that nobody has heard of count as one."""
        self._events.labels(action if action in _ACTIONS else "other").inc()

    def ledger(self, *, new: int = 0, known: int = 0, failed: int = 0) -> None:
        """Counts events that were written, that were there already, and that could not be written."""
        for outcome, count in (("new", new), ("known", known), ("failed", failed)):
            self._ledger.labels(outcome).inc(count)

    def shown(self, *, written: int = 0, lost: int = 0) -> None:
        """Counts records of what was shown."""
        for outcome, count in (("written", written), ("lost", lost)):
            self._shown.labels(outcome).inc(count)

    def swapped(self, seconds: float) -> None:
        """Counts a swap, and how long it took."""
        self._swaps.labels("swapped").inc()
        self._swap_seconds.observe(seconds)

    def not_swapped(self) -> None:
        """Counts a version that could not be served."""
        self._swaps.labels("quarantined").inc()

    def exposed(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


COUNT_S = 15.0
"""Counted at most so often, however often /metrics is asked."""

_log = logging.getLogger(__name__)


class DatabaseGauges:
    """Counts open jobs and pending corrections when somebody looks; what is said is one look behind.

    Args:
        jobs: that knows; None: there are no jobs.
        metrics: told the numbers.
    """

    def __init__(self, jobs: JobService | None, metrics: ServerMetrics) -> None:
        self._jobs = jobs
        self._metrics = metrics
        self._lock = threading.Lock()
        self._counting = False
        self._counted = -COUNT_S
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="count")

    def look(self) -> None:
        """Begins to count, unless that was done lately. Waits for nothing."""
        with self._lock:
            if self._jobs is None or self._counting or time.monotonic() - self._counted < COUNT_S:
                return
            self._counting = True
        try:
            self._thread.submit(self._count, self._jobs)
        except RuntimeError:
            return  # the server is going down

    def close(self) -> None:
        """Stops counting."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _count(self, jobs: JobService) -> None:
        try:
            self._metrics.open_jobs(jobs.queue.open_jobs())
            self._metrics.pending.set(jobs.pending())
        except RamError as error:
            _log.info("jobs and corrections can't be counted: %s", error)
        except Exception:
            _log.exception("Counting jobs and corrections failed.")
        finally:
            with self._lock:
                self._counting, self._counted = False, time.monotonic()
