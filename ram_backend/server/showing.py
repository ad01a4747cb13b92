"""Records what annotators are shown, a moment after it was answered: webhooks don't say it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ram_backend.errors import DatabaseUnavailable
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ServedChoice, ServedImage, ServedPrediction
from ram_backend.labelstudio.plan import LabelPlan
from ram_backend.labelstudio.predictions import ScoredChoice
from ram_backend.labelstudio.stated_items import read_items, said_in
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.metrics import ServerMetrics

WAIT_S = 0.25
"""A prediction waits so long for others to be written along with it."""

AT_ONCE = 500
LIMIT = 20_000
"""Records that wait at most, while the database is away; then the oldest are lost."""

_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


def shown_of(
    plan: LabelPlan,
    task_id: int,
    prediction: Mapping[str, Any],
    scored: Mapping[str, Sequence[ScoredChoice]],
    images: Sequence[ServedImage],
    *,
    version: str | None,
    now: datetime,
) -> ServedPrediction:
    """What one prediction shows: pure.

    Args:
        plan: of the label config.
        task_id: number of the task.
        prediction: as it is answered.
        scored: control name -> choices whose scores are known.
        images: that were tagged.
        version: name of the project's version; None: the bundle's base.
        now: when it was answered.
    """
    choices: list[ServedChoice] = []
    items = read_items(prediction["result"])
    for control in plan.tag_controls:
        ticked = said_in(control, items)
        for one in scored.get(control.name, ()):
            path = (one.choice.value,) if control.nesting == "flat" else one.choice.path
            choices.append(ServedChoice(control.name, path, one.score, path in ticked))
    return ServedPrediction(
        task_id=task_id,
        model_version=prediction["model_version"],
        shown_at=now,
        choices=tuple(choices),
        images=tuple(images),
        version=version,
    )


class ShownRecorder:
    """Writes records to the ledger in a thread of its own; nobody waits for it, and nothing fails with it.

    Args:
        ledger: of the server's database.
        metrics: told what was written, and what was lost.
    """

    def __init__(self, ledger: Ledger, metrics: ServerMetrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._waiting: dict[ProjectKey, list[ServedPrediction]] = {}
        self._count = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shown", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def close(self) -> None:
        """Writes what waits, if that works at once, and stops."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(10)

    def note(self, key: ProjectKey, shown: Iterable[ServedPrediction]) -> None:
        """Takes records of a project in. Waits for nothing."""
        with self._changed:
            mine = self._waiting.setdefault(key, [])
            before = len(mine)
            mine.extend(shown)
            self._count += len(mine) - before
            self._make_room()
            self._changed.notify()

    def _make_room(self) -> None:
        lost = self._count - LIMIT
        while self._count > LIMIT:
            key = next(iter(self._waiting))
            dropped = min(len(self._waiting[key]), self._count - LIMIT)
            del self._waiting[key][:dropped]
            self._count -= dropped
            if not self._waiting[key]:
                del self._waiting[key]
        if lost > 0:
            self._metrics.shown(lost=lost)

    def _run(self) -> None:
        pause = WAIT_S
        away = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._count or self._stopping)
                if not self._stopping:
                    self._changed.wait_for(lambda: self._stopping, timeout=pause)
                key, some = self._take()
                last = self._stopping
            problem = self._write(key, some) if some else None
            if problem is None:
                pause, away = WAIT_S, False
                if last and not self._count:
                    return
                continue
            if not away:
                _log.warning("%s What annotators are shown is recorded when it answers.", problem)
            away, pause = True, min(2 * pause, _LONGEST_PAUSE_S)
            if last:
                self._metrics.shown(lost=len(some) + self._count)
                return
            with self._changed:
                self._waiting[key] = [*some, *self._waiting.pop(key, [])]
                self._count += len(some)
                self._make_room()

    def _take(self) -> tuple[ProjectKey, list[ServedPrediction]]:
        """Some records of the project that has waited longest."""
        if not self._waiting:
            return ProjectKey("", 0, 0), []
        key = next(iter(self._waiting))
        mine = self._waiting.pop(key)
        if len(mine) > AT_ONCE:
            self._waiting[key] = mine[AT_ONCE:]
        self._count -= min(len(mine), AT_ONCE)
        return key, mine[:AT_ONCE]

    def _write(self, key: ProjectKey, some: Sequence[ServedPrediction]) -> str | None:
        """Writes records; says why that has to wait. What the database refuses is lost: the others must not wait."""
        try:
            self._ledger.record_shown(key, some)
        except DatabaseUnavailable as error:
            return str(error)
        except Exception:
            _log.exception("project %s: %d records of what was shown can't be written", key, len(some))
            self._metrics.shown(lost=len(some))
            return None
        self._metrics.shown(written=len(some))
        return None


def now() -> datetime:
    """The moment, for `shown_of`."""
    return datetime.now(UTC)
