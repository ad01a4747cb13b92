"""Periodic threads: heartbeat of a job, supervisor of a worker process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from ram_backend.errors import DatabaseUnavailable, JobLost
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.periodic import PeriodicThread
from ram_backend.settings import Settings

PROGRESS_INTERVAL_S = 0.5
"""Shortest time between two writes of the progress."""

RESTART_S = 2.0
"""Pause before a worker is started again."""

GRACE_S = 3.0
"""Time for a job to end when the server stops."""

_log = logging.getLogger(__name__)


class Heartbeat(PeriodicThread):
    """Renews the lease of a job and writes its progress, from a thread.

    Args:
        settings: time limit, and length of a lease, in which five heartbeats
            are written.
        on_end: called, in the thread, with the reason when the lease is lost or
            the time is up; ends the process, since a job may catch every
            exception. None: no time limit.
        on_progress: called, in the job's thread, with stage, step and steps.
    """

    def __init__(
        self,
        settings: Settings,
        table: JobTable,
        job: Job,
        *,
        on_end: Callable[[str], None] | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._beat_s = settings.lease_seconds / 5
        super().__init__("heartbeat", min(PROGRESS_INTERVAL_S, self._beat_s))
        self._table = table
        self._job = job
        self._limit_s = None if on_end is None else settings.job_timeout_seconds
        self._on_end = on_end
        self._on_progress = on_progress
        self._stage: tuple[Any, ...] = ()  # name, step, steps: of the job's thread
        self._job_began = time.monotonic()
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
        self._stage = (stage, step, steps)
        if self._on_progress is not None:
            self._on_progress(stage, step, steps)

    def tick(self) -> bool:
        """Writes new progress, or renews the lease; False: the job has ended."""
        now, stage = time.monotonic(), self._stage
        try:
            if self._limit_s is not None and now - self._job_began > self._limit_s:
                reason = f"It took longer than {self._limit_s} s"
                remedy = "give workers more with RAM_JOB_TIMEOUT_SECONDS, and ask again."
                self._table.fail(self._job, f"{reason}: {remedy}", retry=False)
                return self._end(reason)
            if stage != self._written or now - self._written_at >= self._beat_s:
                if not self._table.heartbeat(self._job, *stage):
                    return False  # this process has ended the job itself
                self._written, self._written_at = stage, now
        except JobLost as error:
            return not self._stop.is_set() and self._end(str(error))
        except DatabaseUnavailable as error:  # tried again at once
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


class WorkerSupervisor(PeriodicThread):
    """Runs a worker while this is open (`serve --with-worker`), again where it ends."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("worker-supervisor", 0.2)
        self._environment = {**os.environ, **settings.environment()}

    def __enter__(self) -> Self:
        self._start()  # in this thread, which lives as long as the process
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        """Asks the worker to end after its job, then at once, then kills it."""
        super().__exit__()
        for end in (self._process.terminate, self._process.terminate, self._process.kill):
            end()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
                return

    def tick(self) -> bool:
        """Starts another worker where this one has ended."""
        if self._process.poll() is None:
            return True
        _log.warning("The worker ended with status %s: starting another.", self._process.returncode)
        if self._stop.wait(RESTART_S):
            return False
        self._start()
        return True

    def _start(self) -> None:
        command, null = [sys.executable, "-m", "ram_backend", "worker", "--with-parent"], subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, env=self._environment, stdin=null, stdout=null, start_new_session=True
        )
