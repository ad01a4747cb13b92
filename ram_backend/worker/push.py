"""Pushing predictions into Label Studio: each task ends with exactly one of the version that is served.

Label Studio is asked to retrieve them, a portion at a time: it asks the backend only for tasks that have none of the
version which `/setup` names (protocol section 2). So nothing is computed twice, and whoever goes on after a kill begins
with what is missing. Two things could give a task two predictions: a portion that is asked for again while Label Studio
still waits for the backend, and somebody who opens the task meanwhile. Against the first a portion is noted before it
is asked for, and waited for by whoever goes on. The second shows when a portion is looked at: what is too much is
deleted.

The size of portions grows by one with each success, and is halved with each failure (AIMD).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from ram_backend.errors import LabelStudioRefused, NotAvailable
from ram_backend.jobs.job import PrelabelOptions
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.records import ConnectedBackend, TaskPredictions

WAITING_S = 130.0
"""Label Studio has given up on a portion, or stored it, so long after it was asked: it waits 1 + 3 + 100 s."""

LOOK_S = 1.0
PORTION_S = 15.0
"""Where tasks a second are limited, a portion holds what is allowed in that time."""

FRUITLESS = 12
"""After so many tasks without a prediction, each asked for by itself, and none that has got one, the job ends."""

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
class Pushed:
    """What came of it.

    Attributes:
        version: model version of the predictions.
        done: tasks that have got one.
        empty: numbers of those whose prediction is empty because their image could not be had.
        missing: numbers of tasks that have none: what they show can't be had now.
        left: tasks beyond the limit.
        surplus: second predictions that were deleted.
    """

    version: str = ""
    done: int = 0
    empty: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    left: int = 0
    surplus: int = 0


class Pusher:
    """One attempt.

    Args:
        api: of the project.
        options: which tasks.
        size: tasks of a portion at most.
        limit: at most so many tasks; None: all.
        progress: told what is being done, and how far it is; raises where it is to end.
        note: told a portion before Label Studio is asked for it, and whether there was progress since the last one:
            durable when it returns.
        may_go_on: whether to begin the next portion; else the work ends early, and another attempt goes on with it.
    """

    def __init__(
        self,
        api: ProjectApi,
        options: PrelabelOptions,
        size: int,
        *,
        progress: Callable[[str, int, int], None],
        note: Callable[[str, Sequence[int], bool], None],
        may_go_on: Callable[[], bool] = lambda: True,
        limit: int | None = None,
    ) -> None:
        self._api = api
        self._options = options
        self._largest = size if options.per_second is None else max(1, min(size, int(options.per_second * PORTION_S)))
        self._size = self._largest
        self._limit = limit
        self._progress = progress
        self._note = note
        self._may_go_on = may_go_on
        self.result = Pushed()

    def run(self, before: Asked | None = None) -> bool:
        """Does it.

        Args:
            before: the last portion of an earlier attempt.

        Returns:
            Whether it is done; False: `may_go_on` has ended it.

        Raises:
            NotAvailable: Label Studio or the backend don't answer, or store nothing: try again later.
            LabelStudioRefused: the project is not there, or has no backend.
        """
        if before is not None:
            self._settle(before)
        for _ in range(SWAPS):
            done = self._push(served(self._api))
            if done is not None:
                return done
            _log.info("project %s: another version is served by now: beginning anew", self._api.project_id)
        raise NotAvailable("What is served changes all the time: try again when it doesn't.")

    def _settle(self, before: Asked) -> None:
        """Waits until nobody waits any more for a portion of an earlier attempt."""
        began = time.monotonic()
        while True:
            found = self._api.of_version(before.tasks, before.version)
            waited = before.ago_s + time.monotonic() - began
            if all(each.kept is not None for each in found) or waited > WAITING_S:
                self._delete_surplus(found)
                return
            self._progress("wait for the last attempt's portion", int(waited), int(WAITING_S))
            time.sleep(LOOK_S)

    def _push(self, version: str) -> bool | None:
        """All that is wanted, with that version; None: another one is served by now."""
        self.result = Pushed(version, surplus=self.result.surplus)
        self._progress("list tasks", 0, 0)
        again = list(self._api.failed(version)) if "retry-failed" in self._options.which else []
        failed = {each.task: each for each in again}
        lacking = dict.fromkeys(chain(failed, self._lacking(version)))
        left = deque(islice(lacking, self._limit))
        if len(left) == self._limit:
            self.result.left = max(0, self._api.count_unlabelled_without(version) - self._limit)
        total, began, asked, alone, progressed = len(left), time.monotonic(), 0, 0, False
        while left:
            self._progress("predict", total - len(left), total)
            if not self._may_go_on():
                return False
            portion = [left.popleft() for _ in range(min(self._size, len(left)))]
            if self._options.per_second is not None:
                self._wait(began + asked / self._options.per_second, total - len(left), total)
            asked += len(portion)
            for task in portion:
                self._forget(failed.pop(task, None))
            self._note(version, portion, progressed)
            missing = self._ask(version, portion)
            progressed = len(missing) < len(portion)
            if not missing:
                self._size, alone = min(self._largest, self._size + 1), 0
                continue
            if served(self._api) != version:
                return None
            self._size = max(1, len(missing) // 2)
            if len(portion) > 1:
                left.extendleft(reversed(missing))
                continue
            self.result.missing += missing
            alone += 1
            left.rotate(-(len(left) // 2))  # images that can't be had stand together: go on elsewhere
            if alone >= FRUITLESS and not self.result.done and not self._api.has_any(version):
                raise NotAvailable(
                    f"Label Studio stores no predictions of {version} for the tasks that it was asked to retrieve: see"
                    " in the backend's log what it answers, and that it answers within 100 s, or set"
                    " RAM_REFRESH_PORTION to fewer tasks. What is done stays; ask again to go on."
                )
        self._progress("predict", total, total)
        return True

    def _ask(self, version: str, portion: Sequence[int]) -> list[int]:
        """Has Label Studio retrieve a portion; those of its tasks that have got no prediction."""
        self._api.retrieve(portion)
        found = self._api.of_version(portion, version)
        self._delete_surplus(found)
        self.result.done += sum(each.kept is not None for each in found)
        self.result.empty += [each.task for each in found if each.failed]
        return [each.task for each in found if each.kept is None]

    def _lacking(self, version: str) -> Iterator[int]:
        which = self._options.which
        if "all" in which:
            yield from self._api.without(version)
        elif which:
            yield from self._api.without(version, unlabelled=True)
        yield from self._api.without(version, among=self._options.tasks)

    def _forget(self, empty: TaskPredictions | None) -> None:
        """Deletes an empty prediction, so that Label Studio asks again."""
        if empty is not None:
            for number in (empty.kept, *empty.surplus):
                if number is not None:
                    self._api.delete_prediction(number)

    def _delete_surplus(self, found: Sequence[TaskPredictions]) -> None:
        for number in chain.from_iterable(each.surplus for each in found):
            self._api.delete_prediction(number)
            self.result.surplus += 1

    def _wait(self, until: float, step: int, steps: int) -> None:
        while (seconds := until - time.monotonic()) > 0:
            self._progress("predict", step, steps)
            time.sleep(min(seconds, LOOK_S))


def first_backend(api: ProjectApi) -> ConnectedBackend | None:
    """The project's first backend: only that one predicts (protocol section 3)."""
    return next(iter(api.backends()), None)


def served(api: ProjectApi) -> str:
    """The model version that the project's first backend serves.

    Raises:
        NotAvailable: Label Studio can't reach it.
        LabelStudioRefused: there is none.
    """
    backend = first_backend(api)
    if backend is None:
        raise LabelStudioRefused(
            f"Project {api.project_id} has no backend in Label Studio: `ram-backend connect` connects this one."
        )
    if not backend.answers or not backend.model_version:
        error = f" ({backend.error})" if backend.error else ""
        raise NotAvailable(
            f"Label Studio can't reach the backend {backend.url}{error}: start it, or look at its log;"
            " `ram-backend doctor` checks the way."
        )
    return backend.model_version
