"""Lease and heartbeat of a job that is being done, how far it is, and its time limit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ram_backend.errors import DatabaseUnavailable, JobLost
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue

NEWS_S = 0.5
"""News of the progress are written at most so often."""

_log = logging.getLogger(__name__)


class Heartbeat:
    """Renews the lease of a job and writes its progress, from a thread.

    Args:
        queue: of the jobs.
        job: as it was claimed.
        lease_s: how long a lease is good; five heartbeats are written in that time.
        limit_s: so long the job may take, then it has failed; None: as long as it likes.
        on_end: called, in the thread, with the reason when the lease is lost or the time is up: ends the process, since
            whatever the job is doing may be deaf to an exception. None: the job is told by an exception alone.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: Job,
        *,
        lease_s: float = 15.0,
        limit_s: float | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self._queue = queue
        self._job = job
        self._beat_s = lease_s / 5
        self._limit_s = limit_s
        self._on_end = on_end
        self._lock = threading.Lock()
        self._stage: tuple[str, int, int] | None = None
        self._begun = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._news = False
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def __call__(self, stage: str, step: int = 0, steps: int = 0) -> None:
        """Says what is being done now, and how far it is: cheap, may be called for every image.

        Raises:
            JobLost: the lease is lost: end what you do.
        """
        if self._lost:
            raise JobLost(f"Job {self._job.id} belongs to another worker by now.")
        with self._lock:
            self._note_seconds()
            self._stage, self._news = (stage, step, steps), True

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each stage has taken so far, in order."""
        with self._lock:
            self._note_seconds()
            return {stage: round(seconds, 2) for stage, seconds in self._seconds.items()}

    def _note_seconds(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._seconds[self._stage[0]] = self._seconds.get(self._stage[0], 0.0) + now - self._begun
        self._begun = now

    def _run(self) -> None:
        began = time.monotonic()
        written = 0.0
        while not self._stop.wait(min(NEWS_S, self._beat_s)):
            try:
                if self._limit_s is not None and time.monotonic() - began > self._limit_s:
                    message = f"It took longer than {self._limit_s} s"
                    remedy = "give workers more with RAM_JOB_TIMEOUT_SECONDS, and ask again."
                    self._queue.fail(self._job, f"{message}: {remedy}", retry=False)
                    self._end(message)
                    return
                with self._lock:
                    news, self._news = self._news, False
                    stage = self._stage or (None, 0, 0)
                if news or time.monotonic() - written >= self._beat_s:
                    if not self._queue.heartbeat(self._job, *stage):
                        return  # this process has ended the job itself
                    written = time.monotonic()
            except JobLost as error:
                if not self._stop.is_set():
                    self._end(str(error))
                return
            except DatabaseUnavailable as error:  # tried again at once, as the lease goes on running out
                if written:
                    _log.warning("job %s has no heartbeat: %s", self._job.id, error)
                written = 0.0

    def _end(self, reason: str) -> None:
        self._lost = True
        _log.warning("job %s ends here: %s", self._job.id, reason)
        if self._on_end is not None:
            self._on_end(reason)
