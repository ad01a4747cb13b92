"""Numbers for Prometheus that stand in the database: counted beside, so that /metrics never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from ram_backend.errors import RamError
from ram_backend.jobs.service import JobService
from ram_backend.server.metrics import ServerMetrics

COUNT_S = 15.0
"""Counted at most so often, however often /metrics is asked."""

_log = logging.getLogger(__name__)


class Counting:
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
            self._metrics.open_jobs(jobs.open_jobs())
            self._metrics.pending.set(jobs.pending())
        except RamError as error:
            _log.info("jobs and corrections can't be counted: %s", error)
        except Exception:
            _log.exception("Counting jobs and corrections failed.")
        finally:
            with self._lock:
                self._counting, self._counted = False, time.monotonic()
