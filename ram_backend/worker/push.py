"""Predictions of what is served for many tasks, each of which ends with exactly one.

Label Studio is asked to retrieve them, a portion at a time: it asks the backend only for tasks that have none of the
version which `/setup` names (protocol section 2). So nothing is computed twice, and whoever goes on after a kill begins
with what is missing. Two things could give a task two predictions: a portion that is asked for again while Label Studio
still waits for the backend, and somebody who opens the task meanwhile. Against the first a portion is noted before it
is asked for, and waited for by whoever goes on. The second shows when a portion is looked at: what is too much is
deleted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ram_backend.errors import LabelStudioRefused, NotAvailable
from ram_backend.jobs.prelabel_options import Wanted
from ram_backend.labelstudio.prelabel_api import PrelabelApi, TaskPredictions
from ram_backend.worker.chunk_size import Pace

WAITING_S = 130.0
"""Label Studio has given up on a portion, or stored it, so long after it was asked: it waits 1 + 3 + 100 s."""

LOOK_S = 1.0
FRUITLESS = 4
"""After so many tasks one after the other without a prediction, each asked for on its own, one goes on elsewhere."""

DETOURS = 8
"""So often, until one has a prediction again: each of them a single task. Then the rest is asked for a last time."""

GOLDEN = 0.618034
"""Share of what is left that is passed over then, and comes last: jumps of the golden ratio spread over all of it."""

SWAPS = 10
"""What is served may change so often while tasks are asked for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A portion that Label Studio was asked for, and may still be waiting for.

    Attributes:
        version: the model version at that time.
        tasks: of the portion.
        ago_s: how long ago that was.
    """

    version: str
    tasks: tuple[int, ...]
    ago_s: float


@dataclass
class Prelabelled:
    """What came of it.

    Attributes:
        version: model version of the predictions.
        done: tasks that have got one.
        empty: numbers of those whose prediction is empty because their image could not be had.
        missing: numbers of tasks that have none: what they show can't be had now.
        surplus: second predictions that were deleted.
    """

    version: str = ""
    done: int = 0
    empty: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    surplus: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What a pre-labelling is told, and tells.

    Attributes:
        progress: told what is being done, and how far it is; raises where it is to end.
        note: told a portion before Label Studio is asked for it, and whether there was progress since the last one:
            durable when it returns.
        may_go_on: whether to begin the next portion; else the work ends early, and is gone on with by another attempt.
    """

    progress: Callable[[str, int, int], None]
    note: Callable[[str, Sequence[int], bool], None]
    may_go_on: Callable[[], bool] = lambda: True


class Prelabelling:
    """One attempt.

    Args:
        api: of the project.
        wanted: which tasks.
        pace: how many at a time.
        around: see `Surroundings`.
    """

    def __init__(self, api: PrelabelApi, wanted: Wanted, pace: Pace, around: Surroundings) -> None:
        self._api = api
        self._wanted = wanted
        self._pace = pace
        self._around = around
        self.result = Prelabelled()

    def run(self, before: Asked | None = None) -> bool:
        """Does it.

        Args:
            before: the last portion of an earlier attempt.

        Returns:
            Whether it is done; False: `may_go_on` has ended it.

        Raises:
            NotAvailable: Label Studio or the backend don't answer, or bring nothing forth: try again later.
            LabelStudioRefused: the project is not there, or has no backend.
        """
        if before is not None:
            self._settle(before)
        for _ in range(SWAPS):
            done = self._with_version(self._served())
            if done is not None:
                return done
            _log.info("project %s: another version is served by now: beginning anew", self._api.project_id)
        raise NotAvailable("What is served changes all the time: try again when it doesn't.")

    def _served(self) -> str:
        """The model version that the project's first backend serves: only that one predicts."""
        backend = next(iter(self._api.backends()), None)
        if backend is None:
            raise LabelStudioRefused(
                f"Project {self._api.project_id} has no backend in Label Studio: `ram-backend connect` connects this"
                " one."
            )
        if backend.state in ("DI", "ER") or not backend.model_version:
            said = f" ({backend.error})" if backend.error else ""
            raise NotAvailable(
                f"Label Studio can't reach the backend {backend.url}{said}: start it, or look at its log;"
                " `ram-backend doctor` checks the way."
            )
        return backend.model_version

    def _settle(self, before: Asked) -> None:
        """Waits until nobody waits any more for a portion of an earlier attempt."""
        began = time.monotonic()
        while True:
            found = self._api.of_version(before.tasks, before.version)
            waited = before.ago_s + time.monotonic() - began
            if all(each.kept is not None for each in found) or waited > WAITING_S:
                self._tidy(found)
                return
            self._around.progress("wait for the last attempt's portion", int(waited), int(WAITING_S))
            time.sleep(LOOK_S)

    def _with_version(self, version: str) -> bool | None:
        """All that is wanted, with that version; None: another one is served by now."""
        self.result = Prelabelled(version, surplus=self.result.surplus)
        self._around.progress("list tasks", 0, 0)
        again = list(self._api.failed(version)) if "retry-failed" in self._wanted.which else []
        numbers = list(dict.fromkeys(chain((each.task for each in again), self._lacking(version))))
        failed = {each.task: each for each in again}
        left, total = deque(numbers), len(numbers)
        began, fruitless, last, progressed = time.monotonic(), 0, False, False
        while left:
            self._around.progress("predict", total - len(left), total)
            if not self._around.may_go_on():
                return False
            size = self._pace.largest if last else self._pace.size
            portion = [left.popleft() for _ in range(min(size, len(left)))]
            self._pause(self._pace.wait_s(len(portion), time.monotonic() - began), total - len(left), total)
            for task in portion:
                self._forget(failed.pop(task, None))
            asked_at = time.monotonic()
            self._around.note(version, portion, progressed)
            self._api.retrieve(portion)
            found = self._api.of_version(portion, version)
            missing = [each.task for each in found if each.kept is None]
            self._tidy(found)
            progressed = len(missing) < len(portion)
            self.result.done += len(found) - len(missing)
            self.result.empty += [each.task for each in found if each.failed]
            if not missing:
                self._pace.succeeded(len(portion), time.monotonic() - asked_at)
                fruitless = 0
                continue
            if self._served() != version:
                return None
            self._pace.failed(len(missing))
            if len(portion) > 1 and not last:
                left.extendleft(reversed(missing))
                continue
            self.result.missing += missing
            fruitless += 1
            if fruitless < FRUITLESS or last:
                continue
            if fruitless < FRUITLESS + DETOURS:
                left.rotate(-round(GOLDEN * len(left)))
            elif self.result.done or self._api.has_any(version):
                last = True  # one that can be had is enough for a portion to get its predictions
            else:
                raise NotAvailable(
                    f"Label Studio stores no predictions of {version} for the tasks that it was asked to retrieve: see"
                    " in the backend's log what it answers. What is done stays; ask again to go on."
                )
        self._around.progress("predict", total, total)
        return True

    def _lacking(self, version: str) -> Iterator[int]:
        which = self._wanted.which
        if "all" in which:
            yield from self._api.without(version)
        elif which:
            yield from self._api.without(version, unlabelled=True)
        yield from self._api.without(version, among=self._wanted.tasks)

    def _forget(self, empty: TaskPredictions | None) -> None:
        """Deletes an empty prediction, so that Label Studio asks again."""
        if empty is not None:
            for number in (empty.kept, *empty.surplus):
                if number is not None:
                    self._api.delete_prediction(number)

    def _tidy(self, found: Sequence[TaskPredictions]) -> None:
        for number in chain.from_iterable(each.surplus for each in found):
            self._api.delete_prediction(number)
            self.result.surplus += 1

    def _pause(self, seconds: float, step: int, steps: int) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._around.progress("predict", step, steps)
            time.sleep(min(left, LOOK_S))
