"""What a worker looks after besides its own job: dead workers' jobs, jobs that the queue has lost, the queue itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import TracebackType

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, RamError
from ram_backend.jobs.dispatch import TOO_LONG_S, Post
from ram_backend.jobs.triggers import Triggers
from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import Settings

ROUND_S = 1.0
"""Pause between two rounds."""

COUNT_S = 60.0
"""So often the corrections of all projects are counted: a server that was killed may have missed some."""

_log = logging.getLogger(__name__)


class Caretaker:
    """A thread of a worker; several workers may have one each.

    Args:
        settings: how old a heartbeat may be, and how many corrections are enough.
        database: migrated.
        valkey: the queue, which is started again where it is our own and has ended.
        with_parent: ends the worker when the process that started it has ended.
    """

    def __init__(self, settings: Settings, database: Database, valkey: Valkey, *, with_parent: bool = False) -> None:
        self._settings = settings
        self._triggers = Triggers(settings, database)
        self._valkey = valkey
        self._parent = os.getppid() if with_parent else None
        self._stop = threading.Event()
        self._counted = -COUNT_S
        self._first = True
        self._away_until = 0.0  # when workers that live have had time to say so, after the database was away
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def __enter__(self) -> Caretaker:
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
        triggers = self._triggers
        silent_too = time.monotonic() >= self._away_until
        for job in triggers.jobs.take_over(triggers.ledger.last_event, silent_too=silent_too):
            _log.warning("job %s of project %s: %s", job.id, job.key, job.message)
        triggers.follow_up()
        if time.monotonic() - self._counted > COUNT_S:
            triggers.check_all()
            self._counted = time.monotonic()
        due = triggers.jobs.due()
        if due and self._valkey.revive():
            post = Post(self._valkey.url)
            post.put_due(triggers.jobs, due, patience_s=0.0 if self._first else TOO_LONG_S)
        self._first = False

    def _run(self) -> None:
        while True:
            problem = ""
            try:
                self.look()
            except RamError as error:
                problem = str(error)
                if isinstance(error, DatabaseUnavailable):
                    self._away_until = time.monotonic() + self._settings.claim_seconds
            except Exception as error:  # the thread goes on whatever happens
                problem = f"{type(error).__name__}: {error}"
                if problem != self._problem:
                    _log.exception("A round of the caretaker failed.")
            if problem and problem != self._problem:
                _log.warning("%s", problem)
            self._problem = problem
            if self._parent is not None and os.getppid() != self._parent:
                _log.info("The process that started this worker has ended: so does the worker.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if self._stop.wait(ROUND_S):
                return
