"""How many tasks are asked for at a time, and how fast: pure, but for the clock that is handed in."""

from __future__ import annotations

AIM_S = 15.0
"""A request is to take about so long: Label Studio waits 100 s for it, and news of the progress come after each."""

FIRST = 8


class Pace:
    """Sizes of portions: they grow while requests are quick, and shrink where they are slow or fail.

    Args:
        largest: tasks of a portion at most.
        per_second: tasks a second at most; None: any number.
    """

    def __init__(self, largest: int, per_second: float | None = None) -> None:
        self.largest = largest
        self._per_second = per_second
        if per_second is not None:
            self.largest = max(1, min(largest, int(per_second * AIM_S)))
        self._fitting = self.largest
        self.size = min(FIRST, self.largest)
        self._asked = 0

    def succeeded(self, tasks: int, took_s: float) -> None:
        """A portion of so many tasks has its predictions."""
        self._fitting = min(self.largest, self._fitting + 1)
        in_time = int(AIM_S * tasks / max(took_s, 0.001))
        self.size = max(1, min(self._fitting, 2 * max(tasks, self.size), in_time))

    def failed(self, tasks: int) -> None:
        """A portion of so many tasks has not got its predictions: as many are not asked for again soon."""
        self.size = self._fitting = max(1, tasks // 2)

    def wait_s(self, tasks: int, elapsed_s: float) -> float:
        """How long to wait before the next portion is asked for, and notes that it is.

        Args:
            tasks: of that portion.
            elapsed_s: since the first one.
        """
        due = 0.0 if self._per_second is None else self._asked / self._per_second
        self._asked += tasks
        return max(0.0, due - elapsed_s)
