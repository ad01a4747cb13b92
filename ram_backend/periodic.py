"""Periodic threads, and exponential backoff."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self


def backoff(first_s: float, most_s: float, factor: float = 2.0) -> Iterator[float]:
    """Seconds to wait after each failure, at most `most_s`, without end."""
    pause_s = first_s
    while True:
        yield min(pause_s, most_s)
        pause_s = min(pause_s * factor, most_s)


class PeriodicThread(ABC):
    """A daemon thread that calls `tick` after each pause, from `start` to `close`."""

    def __init__(self, name: str, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begins with a pause."""
        self._thread.start()

    def close(self) -> None:
        """Ends it after the round that runs, if that takes less than 10 s."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    @abstractmethod
    def tick(self) -> bool:
        """One round; False: it was the last one."""

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s) and self.tick():
            pass
