"""What the database says each project is served: looked at again and again, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ram_backend.errors import DatabaseUnavailable
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.notices import Listener
from ram_backend.versions.records import Served
from ram_backend.versions.table import VersionTable

POLL_S = 0.5
"""How often the database is looked at; a notice makes it look at once."""

_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a project shall be served.

    Attributes:
        served: what the database says.
        noticed: when that was noticed, on the monotonic clock.
    """

    served: Served
    noticed: float


class Follower:
    """Follows the database, which need not be reachable: while it is away, what it said last holds.

    Args:
        table: of the database.
        redis_url: where notices come from; None: nowhere.
        each_time: called after every look, in the thread.
    """

    def __init__(self, table: VersionTable, redis_url: str | None, each_time: Callable[[], None]) -> None:
        self._table = table
        self._each_time = each_time
        self._lock = threading.Lock()
        self._wanted: dict[ProjectKey, Wanted] = {}
        self._marks: dict[tuple[ProjectKey, str], str | None] = {}
        self._change = -1
        self._away: str | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._listener = Listener(redis_url, self._wake.set) if redis_url else None

    def start(self, *, look: bool) -> None:
        """Goes on in a thread.

        Args:
            look: at the database, before this returns; False where it is known to be away.
        """
        if look:
            self._exchange()
        self._thread.start()
        if self._listener is not None:
            self._listener.start()

    def close(self) -> None:
        """Stops the threads."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)
        if self._listener is not None:
            self._listener.close()

    @property
    def has_looked(self) -> bool:
        """Whether the database has ever answered."""
        return self._change >= 0

    @property
    def stopped(self) -> bool:
        """Whether `close` was called."""
        return self._stop.is_set()

    def hurry(self) -> None:
        """Has it look again at once."""
        self._wake.set()

    def wanted(self) -> dict[ProjectKey, Wanted]:
        """What the database said last: of each project that it said something of."""
        with self._lock:
            return dict(self._wanted)

    def of(self, key: ProjectKey) -> Wanted:
        """What the database said last of one project."""
        return self._wanted.get(key) or Wanted(Served(key), 0.0)

    def mark(self, key: ProjectKey, name: str, reason: str | None) -> None:
        """Notes in the database, soon, why a version can't be served; None: it can."""
        with self._lock:
            self._marks[key, name] = reason

    def _run(self) -> None:
        pause = POLL_S
        while not self._stop.is_set():
            (self._wake if self._away is None else self._stop).wait(pause)
            self._wake.clear()
            if self._stop.is_set():
                return
            pause = POLL_S if self._exchange() else min(2 * pause, _LONGEST_PAUSE_S)
            try:
                self._each_time()
            except Exception:  # the thread goes on whatever happens
                _log.exception("Taking in what is served failed unexpectedly")

    def _exchange(self) -> bool:
        """Reads what is new, and writes the notes. True: it went well."""
        problem: str | None = None
        try:
            self._read()
            self._write_marks()
        except DatabaseUnavailable as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__} while looking at what is served: see the log."
            _log.exception("Looking at what is served failed unexpectedly")
        if problem and self._away is None:
            _log.warning("%s Meanwhile every project is served what it was.", problem)
        self._away = problem
        return problem is None

    def _read(self) -> None:
        changes = self._table.changes(self._change)
        now = time.monotonic()
        with self._lock:
            if changes.change < self._change:  # another database than before: what it doesn't know is not served
                for key in self._wanted.keys() - {each.key for each in changes.served}:
                    self._wanted[key] = Wanted(Served(key), now)
            self._change = changes.change
            for each in changes.served:
                before = self._wanted.get(each.key)
                if before is None or (before.served.version, before.served.digest) != (each.version, each.digest):
                    self._wanted[each.key] = Wanted(each, now)

    def _write_marks(self) -> None:
        with self._lock:
            marks = dict(self._marks)
        for (key, name), reason in marks.items():
            self._table.quarantine(key, name, reason)
            with self._lock:
                if self._marks.get((key, name)) == reason:
                    del self._marks[key, name]
