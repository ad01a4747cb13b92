"""Signs of life of a job that is being done, how far it is, and the end of one that has lost its claim."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from ram_backend.errors import DatabaseUnavailable, JobLost
from ram_backend.jobs.job import Claim, Progress
from ram_backend.jobs.table import JobTable

BEAT_S = 3.0
"""At least so often a sign of life is written."""

NEWS_S = 0.5
"""News of the progress are written at most so often."""

_log = logging.getLogger(__name__)


class Pulse:
    """Writes heartbeat and progress of a claim, from a thread.

    Args:
        table: of the jobs.
        claim: on the job that is being done.
        is_orphan: whether the worker that this process belongs to has ended.
        on_lost: called, in the thread, when the claim is good no more, or the worker has ended.
        usual_s: seconds per stage of an earlier such job, in order, to tell how long it will take.
        limit_s: so long it may take; None: as long as it likes.
        on_overrun: called, in the thread, when it has taken longer: ends the job's row and tells what came of it. Then
            `on_lost` is called: whatever the job is doing may be deaf to an exception.
    """

    def __init__(
        self,
        table: JobTable,
        claim: Claim,
        *,
        is_orphan: Callable[[], bool] = lambda: False,
        on_lost: Callable[[str], None] = lambda reason: None,
        usual_s: Mapping[str, float] | None = None,
        limit_s: float | None = None,
        on_overrun: Callable[[], str] = lambda: "it has taken too long",
    ) -> None:
        self._table = table
        self._claim = claim
        self._is_orphan = is_orphan
        self._on_lost = on_lost
        self._usual = dict(usual_s or {})
        self._limit = limit_s
        self._on_overrun = on_overrun
        self._lock = threading.Lock()
        self._stage: tuple[str, int, int] | None = None
        self._begun = time.monotonic()
        self._spent: dict[str, float] = {}
        self._news = False
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
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
            JobLost: the claim is good no more: end what you do.
        """
        if self._lost:
            raise JobLost(f"Job {self._claim.job.id} belongs to another worker by now.")
        with self._lock:
            if self._stage is None or self._stage[0] != stage:
                self._note_spent()
                self._begun = time.monotonic()
            self._stage, self._news = (stage, step, steps), True

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each stage has taken so far, in order."""
        with self._lock:
            self._note_spent()
            return {stage: round(seconds, 2) for stage, seconds in self._spent.items()}

    def _note_spent(self) -> None:
        if self._stage is not None:
            now = time.monotonic()
            self._spent[self._stage[0]] = self._spent.get(self._stage[0], 0.0) + now - self._begun
            self._begun = now

    def progress(self) -> Progress | None:
        """How far the job is; None: nothing has been said yet."""
        with self._lock:
            if self._stage is None:
                return None
            stage, step, steps = self._stage
            took = time.monotonic() - self._begun
        left: float | None = None
        if steps and step:
            left = took / step * (steps - step)
        elif stage in self._usual:
            left = max(0.0, self._usual[stage] - took)
        stages = list(self._usual)
        later = stages[stages.index(stage) + 1 :] if stage in stages else []
        eta = None if left is None else left + sum(self._usual[each] for each in later)
        return Progress(stage, step, steps, eta)

    def _run(self) -> None:
        written = 0.0
        end = None if self._limit is None else time.monotonic() + self._limit
        while not self._stop.wait(NEWS_S):
            if self._is_orphan():
                self._end("the worker that it belongs to has ended")
                return
            if end is not None and time.monotonic() > end and self._has_overrun():
                return
            with self._lock:
                news, self._news = self._news, False
            if not news and time.monotonic() - written < BEAT_S:
                continue
            try:
                good = self._table.beat(self._claim, self.progress())
            except (
                DatabaseUnavailable
            ) as error:  # tried again at once: others wait for it before they take the job over
                if written:
                    _log.warning("job %s gives no sign of life: %s", self._claim.job.id, error)
                written = 0.0
                continue
            written = time.monotonic()
            if not good and not self._stop.is_set():
                self._end("another worker has taken it over")
                return

    def _has_overrun(self) -> bool:
        try:
            said = self._on_overrun()
        except DatabaseUnavailable as error:
            _log.warning("job %s has taken too long, which can't be noted: %s", self._claim.job.id, error)
            return False
        if not self._stop.is_set():
            self._end(said)
        return True

    def _end(self, reason: str) -> None:
        self._lost = True
        _log.warning("job %s ends here: %s", self._claim.job.id, reason)
        self._on_lost(reason)
