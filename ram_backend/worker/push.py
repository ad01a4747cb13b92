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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from ram_backend.errors import LabelStudioRefused, NotAvailable
from ram_backend.jobs.job import PrelabelOptions
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.records import ConnectedBackend, TaskPredictions

WAITING_S = 130.0
"""Seconds after which Label Studio has given up on a portion, or stored it: it waits 1 + 3 + 100 s."""

LOOK_S = 0.5
PORTION_S = 15.0
"""Where tasks a second are limited, a portion holds what is allowed in that time."""

FRUITLESS = 12
"""A job ends after this number of tasks without a prediction, each asked for alone, where no task has got one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Portion:
    """Tasks that Label Studio is asked for, or may still be waiting for.

    Attributes:
        version: the model version at that time.
        tasks: their numbers.
        ago_s: seconds since it was asked for.
    """

    version: str
    tasks: tuple[int, ...]
    ago_s: float = 0.0


@dataclass
class Pushed:
    """Result of a push.

    Attributes:
        version: model version of the predictions.
        done: tasks that have got one.
        empty: numbers of those whose prediction is empty because their image could not be had.
        missing: numbers of tasks that have none: their images can't be had now.
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
        size: most tasks of a portion.
        progress: called with stage, step and steps; raises where it is to end.
        limit: most tasks; None: all.
    """

    def __init__(
        self,
        api: ProjectApi,
        options: PrelabelOptions,
        size: int,
        *,
        progress: Callable[[str, int, int], None],
        limit: int | None = None,
    ) -> None:
        self._api = api
        self._options = options
        self._largest = size if options.per_second is None else max(1, min(size, int(options.per_second * PORTION_S)))
        self._progress = progress
        self._limit = limit
        self.result = Pushed()

    def settle(self, portion: Portion) -> None:
        """Waits until Label Studio no longer waits for the last portion of an earlier attempt."""
        began = time.monotonic()
        while any(each.kept is None for each in self._look(portion)):
            waited = portion.ago_s + time.monotonic() - began
            if waited > WAITING_S:
                return
            self._progress("wait for the last attempt's portion", int(waited), int(WAITING_S))
            time.sleep(LOOK_S)

    def run(self) -> Iterator[Portion]:
        """Pushes portion by portion.

        Yields:
            Each one before it is asked for: the caller keeps it, for a later attempt to `settle`, or stops here.

        Raises:
            NotAvailable: Label Studio or the backend don't answer, or store nothing: try again later.
            LabelStudioRefused: the project is not there, or has no backend.
        """
        api, rate, version = self._api, self._options.per_second, served(self._api)
        result = self.result = Pushed(version, surplus=self.result.surplus)
        self._progress("list tasks", 0, 0)
        which = self._options.which
        failed = {each.task: each for each in api.failed(version)} if "retry-failed" in which else {}
        unasked = api.without(version, unlabelled="all" not in which) if which else ()
        lacking = dict.fromkeys(chain(failed, unasked, api.without(version, among=self._options.tasks)))
        left = deque(islice(lacking, self._limit))
        total, size, asked, alone, began = len(left), self._largest, 0, 0, time.monotonic()
        result.left = len(lacking) - total
        while left:
            self._progress("predict", total - len(left), total)
            while rate is not None and (pause_s := began + asked / rate - time.monotonic()) > 0:
                time.sleep(min(pause_s, LOOK_S))
                self._progress("predict", total - len(left), total)
            portion = Portion(version, tuple(left.popleft() for _ in range(min(size, len(left)))))
            yield portion
            for empty in [failed.pop(task) for task in portion.tasks if task in failed]:
                for number in filter(None, (empty.kept, *empty.surplus)):  # so that Label Studio asks again
                    api.delete_prediction(number)
            api.retrieve(portion.tasks)
            asked += len(portion.tasks)
            found = self._look(portion)
            missing = [each.task for each in found if each.kept is None]
            result.done += len(found) - len(missing)
            result.empty += [each.task for each in found if each.failed]
            if not missing:
                size, alone = min(self._largest, size + 1), 0
            elif served(api) != version:
                _log.info("project %s: another version is served by now: beginning anew", api.project_id)
                yield from self.run()
                return
            elif len(portion.tasks) > 1:
                size = max(1, len(missing) // 2)
                left.extendleft(reversed(missing))
            else:
                result.missing += missing
                alone += 1
                left.rotate(-(len(left) // 2))  # images that can't be had stand together: go on elsewhere
                if alone >= FRUITLESS and not result.done and not api.has_any(version):
                    raise NotAvailable(
                        f"Label Studio stores no predictions of {version} for the tasks that it was asked to retrieve:"
                        " see in the backend's log what it answers, and that it answers within 100 s, or set"
                        " RAM_REFRESH_PORTION to fewer tasks. What is done stays; ask again to go on."
                    )
        self._progress("predict", total, total)

    def _look(self, portion: Portion) -> list[TaskPredictions]:
        """The predictions of a portion's tasks; second ones are deleted."""
        found = self._api.of_version(portion.tasks, portion.version)
        for number in chain.from_iterable(each.surplus for each in found):
            self._api.delete_prediction(number)
            self.result.surplus += 1
        return found


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
