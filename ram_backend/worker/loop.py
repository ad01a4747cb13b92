"""Background loop: a daemon thread that repeats a round until it is left."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Loop:
    """Runs from `with` to the end of its block; a subclass defines a round.

    Args:
        name: of the thread.
        pause_s: before each round.
    """

    def __init__(self, name: str, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def look(self) -> bool:
        """One round, in the thread; False: it was the last one."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s) and self.look():
            pass
