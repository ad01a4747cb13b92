"""Maintenance by each worker: expired leases, corrections that nobody has counted, due jobs, the queue itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import TracebackType

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, RamError
from ram_backend.jobs.dispatch import connect, dispatch
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings

ROUND_S = 0.5
"""Pause between two rounds."""

COUNT_ALL_S = 60.0
"""So often the corrections of all projects are counted, else of those that events have come for."""

_log = logging.getLogger(__name__)


class Maintenance:
    """A thread of a worker; several workers may have one each.

    Args:
        settings: how long a lease is good, and how often corrections are counted.
        database: migrated.
        valkey: the queue, which is started again where it is our own and has ended.
        with_parent: ends the worker when the process that started it has ended.
    """

    def __init__(self, settings: Settings, database: Database, valkey: Valkey, *, with_parent: bool = False) -> None:
        self._settings = settings
        self._service = JobService(settings, database)
        self._valkey = valkey
        self._parent = os.getppid() if with_parent else None
        self._stop = threading.Event()
        self._events: dict[ProjectKey, int] = {}  # the last one of each project that was counted
        self._count_at = self._count_all_at = 0.0
        self._spare_until = 0.0  # while the database was away nobody could renew a lease
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def __enter__(self) -> Maintenance:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def look(self) -> None:
        """One round.

        Raises:
            NotAvailable: database or queue don't answer.
        """
        queue = self._service.queue
        if time.monotonic() >= self._spare_until:
            for job in queue.expire():
                _log.warning("job %s of project %s: %s", job.id, job.key, job.message)
        self._count()
        due = queue.due()
        if due and self._valkey.revive():
            with connect(self._valkey.url) as connection:
                dispatch(connection, due, self._settings.lease_seconds)

    def _count(self) -> None:
        """Asks for trainings where enough corrections have changed, a little after the events came."""
        now = time.monotonic()
        if now < self._count_at:
            return
        self._count_at = now + self._settings.train_debounce_seconds
        events = self._service.ledger.last_events()
        if now >= self._count_all_at:
            self._count_all_at, self._events = now + COUNT_ALL_S, {}
        self._service.check(*(key for key, last in events.items() if self._events.get(key) != last))
        self._events = events

    def _run(self) -> None:
        while True:
            problem = ""
            try:
                self.look()
            except RamError as error:
                problem = str(error)
                if isinstance(error, DatabaseUnavailable):
                    self._spare_until = time.monotonic() + self._settings.lease_seconds
            except Exception as error:  # the thread goes on whatever happens
                problem = f"{type(error).__name__}: {error}"
                if problem != self._problem:
                    _log.exception("A round of maintenance failed.")
            if problem and problem != self._problem:
                _log.warning("%s", problem)
            self._problem = problem
            if self._parent is not None and os.getppid() != self._parent:
                _log.info("The process that started this worker has ended: so does the worker.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if self._stop.wait(ROUND_S):
                return
