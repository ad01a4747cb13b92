"""Where the server asks for jobs: answered at once, whether or not queue and workers are there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, NotAvailable, ProjectNotFound
from ram_backend.jobs.dispatch import Post, put_all_due
from ram_backend.jobs.prelabel_options import Wanted
from ram_backend.jobs.triggers import Pinned, Triggers
from ram_backend.jobs.valkey import Valkey
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings

_log = logging.getLogger(__name__)


class Desk:
    """Takes requests for jobs, and counts what corrections change. Safe for many threads.

    A request is one row in the database; a thread then tells the queue. Where the queue is away, workers find the row
    by themselves.

    Args:
        settings: how many corrections are enough, and how long to wait for more of them.
        database: migrated by the time when the first request comes.
        valkey: the queue; None: workers look into the database every few seconds anyway.
    """

    def __init__(self, settings: Settings, database: Database, valkey: Valkey | None = None) -> None:
        self._settings = settings
        self._triggers = Triggers(settings, database)
        self._valkey = valkey
        self._changed: dict[ProjectKey, float] = {}
        self._told = False
        self._wake = threading.Condition()
        self._stop = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to tell the queue, and to count; what happened while nobody did is looked at first."""
        self._thread = threading.Thread(target=self._run, name="training-desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the thread; requests that it has not told the queue of are found by workers."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(5)

    def __enter__(self) -> Desk:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def request(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        """Asks for a training: durable when it returns. Asking five times leads to one job.

        Args:
            key: which project; its Label Studio may be left open ("").
            reason: in a few words.
            debounced: begin a moment later: more requests are about to come.

        Returns:
            `message` for people, and `job` where there is one.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        try:
            asked = self._triggers.train(key, reason, debounced=debounced)
        except ProjectNotFound as error:
            return {"message": str(error)}
        if isinstance(asked, Pinned):
            return {
                "message": f"Nothing was started: the project is pinned to {asked.version}."
                f" `ram-backend versions unpin {key.id}` ends that."
            }
        with self._wake:
            self._told = True
            self._wake.notify()
        job = asked.job
        if asked.is_new:
            message = f"Training is queued as job {job.id}; `ram-backend jobs` and /jobs show how far it is."
        elif job.state == "requested":
            message = f"Training was queued already, as job {job.id}."
        else:
            message = f"Training is running, as job {job.id}; corrections that came since it began get another one."
        return {"job": job.id, "message": message}

    def prelabel(self, key: ProjectKey, tasks: Sequence[int], reason: str) -> dict[str, Any]:
        """Asks for predictions of tasks that were not done within a request: durable when it returns.

        Args:
            key: which project; its Label Studio may be left open ("").
            tasks: their numbers.
            reason: in a few words.

        Returns:
            `message` for people, and `job` where there is one.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        try:
            asked = self._triggers.prelabel(key, Wanted(tasks=tuple(sorted(set(tasks)))), reason)
        except ProjectNotFound as error:
            return {"message": str(error)}
        with self._wake:
            self._told = True
            self._wake.notify()
        message = (
            f"{len(tasks):,} tasks were not done in time: job {asked.job.id} goes on with them, and their predictions"
            f" appear as they are done. `ram-backend jobs` and /jobs show how far it is; it needs a worker."
        )
        return {"job": asked.job.id, "message": message}

    def corrections_changed(self, key: ProjectKey) -> None:
        """Says that a correction has come, changed or gone; counted a little later. Waits for nothing."""
        if self._settings.train_after == 0:
            return
        with self._wake:
            if key not in self._changed:
                self._changed[key] = time.monotonic() + self._settings.train_debounce_seconds
                self._wake.notify()

    def open_jobs(self) -> Mapping[tuple[str, str], int]:
        """How many jobs of all projects wait or run, by kind and state.

        Raises:
            DatabaseUnavailable: see the message.
        """
        return self._triggers.jobs.open_jobs()

    def pending(self) -> int:
        """Corrections of all projects that have changed since the last attempt to learn from them.

        Raises:
            DatabaseUnavailable: see the message.
        """
        known = self._triggers.ledger.keys()
        return sum(map(self._triggers.pending, known))

    def jobs(self, key: ProjectKey | None = None) -> list[dict[str, Any]]:
        """Open jobs first, then the latest, as `GET /jobs` shows them.

        Raises:
            DatabaseUnavailable: see the message.
        """
        return [job.to_json() for job in self._triggers.jobs.jobs(key)]

    def _run(self) -> None:
        self._guarded(self._look_at_all)
        while True:
            with self._wake:
                while not self._is_due():
                    self._wake.wait(self._pause())
                if self._stop:
                    return
                now = time.monotonic()
                ready = [key for key, due in self._changed.items() if due <= now]
                for key in ready:
                    del self._changed[key]
                told, self._told = self._told, False
            for key in ready:
                told = self._guarded(partial(self._check, key)) or told
            if told:
                self._guarded(self._tell)

    def _check(self, key: ProjectKey) -> bool:
        return self._triggers.check(key) is not None

    def _is_due(self) -> bool:
        return self._stop or self._told or any(due <= time.monotonic() for due in self._changed.values())

    def _pause(self) -> float | None:
        return max(0.0, min(self._changed.values()) - time.monotonic()) if self._changed else None

    def _look_at_all(self) -> bool:
        self._triggers.check_all()
        return self._tell()

    def _tell(self) -> bool:
        if self._valkey is None or not self._valkey.revive():
            return False
        return put_all_due(self._triggers.jobs, Post(self._valkey.url))

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """The thread goes on whatever happens; what it misses is found by the workers."""
        try:
            return step()
        except DatabaseUnavailable as error:
            _log.warning("%s Corrections are counted when it answers.", error)
        except NotAvailable as error:
            _log.warning("%s", error)
        except Exception:
            _log.exception("The training desk failed to count corrections.")
        return False
