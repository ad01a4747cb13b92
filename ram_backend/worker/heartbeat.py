"""Periodic threads; lease, heartbeat, progress and time limit of a job."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

from ram_backend.errors import DatabaseUnavailable, JobLost
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.settings import Settings

NEWS_S = 0.5
"""Shortest time between two writes of the progress."""

_log = logging.getLogger(__name__)


class PeriodicThread(ABC):
    """A daemon thread that calls `tick` after each pause, from `with` to the end of its block."""

    def __init__(self, name: str, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    @abstractmethod
    def tick(self) -> bool:
        """One round; False: it was the last one."""

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s) and self.tick():
            pass


class Heartbeat(PeriodicThread):
    """Renews the lease of a job and writes its progress, from a thread.

    Args:
        settings: time limit, and length of a lease, in which five heartbeats
            are written.
        queue: of the jobs.
        job: as it was claimed.
        on_end: called, in the thread, with the reason when the lease is lost or
            the time is up; ends the process, since a job may catch every
            exception. None: no time limit.
        on_progress: called, in the job's thread, with stage, step and steps.
    """

    def __init__(
        self,
        settings: Settings,
        queue: JobQueue,
        job: Job,
        *,
        on_end: Callable[[str], None] | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._beat_s = settings.lease_seconds / 5
        super().__init__("heartbeat", min(NEWS_S, self._beat_s))
        self._queue = queue
        self._job = job
        self._limit_s = None if on_end is None else settings.job_timeout_seconds
        self._on_end = on_end
        self._on_progress = on_progress
        self._stage: tuple[Any, ...] = ()  # name, step and steps; written in the job's thread
        self._stage_began = self._job_began = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._written: tuple[Any, ...] = ()
        self._written_at = 0.0
        self._lost = False

    def __call__(self, stage: str, step: int = 0, steps: int = 0) -> None:
        """Records the progress: cheap, may be called for every image.

        Raises:
            JobLost: the lease is lost.
        """
        if self._lost:
            raise JobLost(f"Job {self._job.id} belongs to another worker by now.")
        self._add_seconds()
        self._stage = (stage, step, steps)
        if self._on_progress is not None:
            self._on_progress(stage, step, steps)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, in order; for the job's thread."""
        self._add_seconds()
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}

    def _add_seconds(self) -> None:
        now = time.monotonic()
        for stage in self._stage[:1]:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._stage_began
        self._stage_began = now

    def tick(self) -> bool:
        """Writes new progress, or renews the lease; False: the job has ended."""
        now, stage = time.monotonic(), self._stage
        try:
            if self._limit_s is not None and now - self._job_began > self._limit_s:
                reason = f"It took longer than {self._limit_s} s"
                remedy = "give workers more with RAM_JOB_TIMEOUT_SECONDS, and ask again."
                self._queue.fail(self._job, f"{reason}: {remedy}", retry=False)
                return self._end(reason)
            if stage != self._written or now - self._written_at >= self._beat_s:
                if not self._queue.heartbeat(self._job, *stage):
                    return False  # this process has ended the job itself
                self._written, self._written_at = stage, now
        except JobLost as error:
            return not self._stop.is_set() and self._end(str(error))
        except DatabaseUnavailable as error:  # tried again at once, as the lease goes on running out
            if self._written_at:
                _log.warning("job %s has no heartbeat: %s", self._job.id, error)
            self._written_at = 0.0
        return True

    def _end(self, reason: str) -> bool:
        self._lost = True
        _log.warning("job %s ends here: %s", self._job.id, reason)
        if self._on_end is not None:
            self._on_end(reason)
        return False
