"""The latest results are kept, and nobody works for what was dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from ram_backend.server.snapshots import FutureLRU

K = TypeVar("K")
V = TypeVar("V")


def got(latest: FutureLRU[K, V], key: K, work: Callable[[], V]) -> Future[V]:
    """Asked for, and not waited for."""
    with latest.awaited(key, work) as future:
        return future


def test_what_is_dropped_before_it_has_begun_is_not_worked_for() -> None:
    done: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> int:
        assert go_on.wait(30)
        done.append(number)
        return number

    with ThreadPoolExecutor(1) as workers:
        latest: FutureLRU[int, int] = FutureLRU(2, workers)
        with ExitStack() as waiting:
            awaited = waiting.enter_context(latest.awaited(7, partial(work, 7)))
            futures = [got(latest, number, partial(work, number)) for number in range(100) if number != 7]
            again = got(latest, 50, partial(work, 50))
            go_on.set()
            assert awaited.result(30) == 7, "somebody waits for it"
        assert [futures[-1].result(30), again.result(30)] == [99, 50]
        assert futures[49].cancelled()
        assert len(latest) == 2
    assert sorted(done) == [7, 50, 99]


def test_what_is_there_is_not_made_again() -> None:
    with ThreadPoolExecutor(1) as workers:
        latest: FutureLRU[str, object] = FutureLRU(2, workers)
        first = got(latest, "a", object)
        assert got(latest, "a", object) is first
        first.result(30)
        for key in "bc":
            got(latest, key, object)
        assert got(latest, "a", object) is not first
