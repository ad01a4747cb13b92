"""Which predictions a pre-labelling is to push: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ram_backend.errors import InputError

Which = Literal["all", "unlabelled", "retry-failed"]
WHICH: tuple[Which, ...] = ("all", "unlabelled", "retry-failed")


@dataclass(frozen=True)
class Wanted:
    """Tasks that are to have a prediction of what is served.

    Attributes:
        which: kinds of tasks: "all", "unlabelled" (without annotation), "retry-failed" (whose prediction is empty
            because their image could not be had, and unlabelled ones without any).
        tasks: numbers of further tasks, rising.
        per_second: at most so many tasks a second; None: as fast as it goes.
    """

    which: tuple[Which, ...] = ()
    tasks: tuple[int, ...] = ()
    per_second: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Wanted:
        """Reads what `to_json` has written.

        Raises:
            InputError: it is something else.
        """
        found = options or {}
        which, tasks, per_second = found.get("which", []), found.get("tasks", []), found.get("per_second")
        if not set(which) <= set(WHICH) or not all(type(task) is int for task in tasks):
            raise InputError(f"A job's options are none of pre-labelling: {str(found)[:200]}. Ask for the job again.")
        if per_second is not None and not (isinstance(per_second, int | float) and per_second > 0):
            raise InputError(f"per_second={per_second!r} has to be more than 0.")
        return cls(tuple(each for each in WHICH if each in which), tuple(sorted(set(tasks))), per_second)

    def also(self, other: Wanted) -> Wanted:
        """Both; the other one's speed, where it names one."""
        which = tuple(each for each in WHICH if each in self.which + other.which)
        tasks = tuple(sorted({*self.tasks, *other.tasks}))
        return Wanted(which, tasks, other.per_second or self.per_second)

    def to_json(self) -> dict[str, Any]:
        """For the job's row."""
        return {"which": list(self.which), "tasks": list(self.tasks), "per_second": self.per_second}
