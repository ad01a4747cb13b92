"""Supervisor of a worker process beside a server: `ram-backend serve --with-worker`, for one machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType

from ram_backend.backoff import backoff
from ram_backend.settings import Settings

PAUSES_S = (1.0, 60.0)
"""How long a worker that has ended by itself stays away: at first, and at most."""

STEADY_S = 60.0
"""A worker that has run for so long begins anew with the first pause."""

PATIENCE_S = 3.0
"""A job may take so long to end when the server stops; then the next worker begins it anew."""

_log = logging.getLogger(__name__)


class WorkerSupervisor:
    """A worker process that is there while this is open; started again where it ends.

    Args:
        settings: of the server, and of the worker.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = {**os.environ, **settings.environment()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WorkerSupervisor:
        self._process = self._start()  # in this thread, which lives as long as the process
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Asks it to end, then to end at once, then ends it; a job that is cut short is begun anew by the next one."""
        self._stop.set()
        self._thread.join(10)
        process = self._process
        if process is not None:
            for end in (process.terminate, process.terminate, process.kill):
                end()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
                    return

    @property
    def pid(self) -> int | None:
        """Number of its process; None: there is none now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ram_backend", "worker", "--with-parent"]
        null = subprocess.DEVNULL
        return subprocess.Popen(command, env=self._environment, stdin=null, stdout=null, start_new_session=True)

    def _run(self) -> None:
        pauses, began = backoff(*PAUSES_S), time.monotonic()
        while not self._stop.wait(0.2):
            if self._process is None or self._process.poll() is None:
                continue
            if time.monotonic() - began > STEADY_S:
                pauses = backoff(*PAUSES_S)
            _log.warning("The worker has ended with status %s: starting another one.", self._process.returncode)
            if self._stop.wait(next(pauses)):
                return
            began, self._process = time.monotonic(), self._start()
