"""The latest results are kept, and nobody works for what was dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ram_backend.errors import NotAvailable
from ram_backend.server.snapshots import _Latest


def test_what_is_dropped_before_it_has_begun_is_not_worked_for() -> None:
    done: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> int:
        assert go_on.wait(30)
        done.append(number)
        return number

    with ThreadPoolExecutor(1) as workers:
        latest: _Latest[int, int] = _Latest(2, workers)
        futures = [latest.get(number, partial(work, number)) for number in range(100)]
        again = latest.get(50, partial(work, 50))
        go_on.set()
        assert [futures[99].result(30), again.result(30)] == [99, 50]
        with pytest.raises(NotAvailable, match="try again"):
            futures[50].result(30)
        assert len(latest) == 2
    assert sorted(done) == [0, 50, 99]  # the first had begun


def test_what_is_there_is_not_made_again() -> None:
    with ThreadPoolExecutor(1) as workers:
        latest: _Latest[str, object] = _Latest(2, workers)
        first = latest.get("a", object)
        assert latest.get("a", object) is first
        first.result(30)
        for key in "bc":
            latest.get(key, object)
        assert latest.get("a", object) is not first
