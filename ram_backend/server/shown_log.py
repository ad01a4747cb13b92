"""Background batch writer of what annotators were shown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from queue import Full, Queue

from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownPrediction
from ram_backend.periodic import PeriodicThread, backoff
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.prometheus import ServerMetrics

WAIT_S = 0.25
"""Pause between two batches of records."""

AT_ONCE = 500
LIMIT = 20_000
"""Most records that wait for the database; further ones are lost."""

_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


class ShownLog(PeriodicThread):
    """Writes records to the ledger in batches; asynchronous, best effort."""

    def __init__(self, ledger: Ledger, metrics: ServerMetrics) -> None:
        super().__init__("shown", WAIT_S)
        self._ledger = ledger
        self._metrics = metrics
        self._queue: Queue[tuple[ProjectKey, ShownPrediction]] = Queue(LIMIT)

    def close(self) -> None:
        """Writes what waits, if that works at once, and stops."""
        super().close()
        self.tick()

    def put(self, key: ProjectKey, shown: ShownPrediction) -> None:
        """Takes in a record of a project. Waits for nothing."""
        try:
            self._queue.put_nowait((key, shown))
        except Full:
            self._metrics.shown.labels("lost").inc()

    def tick(self) -> bool:
        """Writes what waits."""
        while not self._queue.empty():
            by_project: dict[ProjectKey, list[ShownPrediction]] = {}
            for _ in range(min(AT_ONCE, self._queue.qsize())):
                key, shown = self._queue.get_nowait()
                by_project.setdefault(key, []).append(shown)
            for key, batch in by_project.items():
                written = self._write(key, batch)
                self._metrics.shown.labels("written" if written else "lost").inc(len(batch))
        return True

    def _write(self, key: ProjectKey, batch: Sequence[ShownPrediction]) -> bool:
        """Writes when the database answers; False: it refuses, or the server stops."""
        for tries, pause_s in enumerate(backoff(2 * WAIT_S, _LONGEST_PAUSE_S)):
            try:
                self._ledger.record_shown(key, batch)
                return True
            except DatabaseUnavailable as error:
                if tries == 0:
                    _log.warning("%s What annotators are shown is recorded when it answers.", error)
                if self._stop.wait(pause_s):
                    break
            except Exception:
                _log.exception("project %s: %d records of what was shown can't be written", key, len(batch))
                break
        return False
