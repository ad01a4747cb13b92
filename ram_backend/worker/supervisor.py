"""Supervisor of a worker process beside a server: `ram-backend serve --with-worker`, for one machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Self

from ram_backend.backoff import backoff
from ram_backend.settings import Settings
from ram_backend.worker.heartbeat import PeriodicThread

PAUSES_S = (1.0, 60.0)
"""Shortest and longest pause before a worker is started again; the shortest after it has run for `STEADY_S`."""

STEADY_S = 60.0
GRACE_S = 3.0
"""Time for a job to end when the server stops; the next worker begins it anew."""

_log = logging.getLogger(__name__)


class WorkerSupervisor(PeriodicThread):
    """Runs a worker process while this is open; starts it again where it ends."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("worker-supervisor", 0.2)
        self._environment = {**os.environ, **settings.environment()}
        self._pauses = backoff(*PAUSES_S)

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
        if time.monotonic() - self._began > STEADY_S:
            self._pauses = backoff(*PAUSES_S)
        _log.warning("The worker has ended with status %s: starting another one.", self._process.returncode)
        if self._stop.wait(next(self._pauses)):
            return False
        self._start()
        return True

    def _start(self) -> None:
        command, null = [sys.executable, "-m", "ram_backend", "worker", "--with-parent"], subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, env=self._environment, stdin=null, stdout=null, start_new_session=True
        )
        self._began = time.monotonic()
