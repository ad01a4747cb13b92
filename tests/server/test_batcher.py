"""Batches by size, deadline and encoder; jobs first; nobody works for those who are gone."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from ram_backend.errors import NotAvailable
from ram_backend.server import batcher as batcher_module
from ram_backend.server.batcher import Batcher
from ram_backend.server.prometheus import ServerMetrics


class Gated:
    """Encodes when it is let; a token is the first pixel."""

    side_by_side = True
    token_shape = (1, 1)

    def __init__(self, encoder_id: str = "one") -> None:
        self.encoder_id = encoder_id
        self.batches: list[list[float]] = []
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.go_on.acquire(timeout=30)
        return pixels[:, 0, :1, :1]


def put(batcher: Batcher, network: Any, *numbers: float) -> list[Future[Any]]:
    """Hands in images, each of one number."""
    return [batcher.encode(network, np.full((3, 2, 2), number, dtype=np.float32)) for number in numbers]


def busy(batcher: Batcher, network: Gated) -> Future[Any]:
    """Image 0, in a batch that is being encoded."""
    (future,) = put(batcher, network, 0)
    assert network.entered.acquire(timeout=30)
    return future


def results(futures: Sequence[Future[Any]]) -> list[float]:
    return [future.result(30).item() for future in futures]


@pytest.fixture
def network() -> Gated:
    return Gated()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    with closing(Batcher(3, 0.0, ServerMetrics())) as made:
        yield made


def test_what_waits_is_merged_up_to_the_size(batcher: Batcher, network: Gated) -> None:
    first = busy(batcher, network)
    others = put(batcher, network, 1, 2, 3, 4, 5)
    network.go_on.release(3)
    assert results([first, *others]) == [0, 1, 2, 3, 4, 5]
    assert network.batches == [[0], [1, 2, 3], [4, 5]]


def test_encoders_are_not_mixed_and_keep_their_order(batcher: Batcher) -> None:
    one, two = Gated("one"), Gated("two")
    first = busy(batcher, one)
    others = [put(batcher, each, number)[0] for number, each in enumerate([two, one, two, one], start=1)]
    one.go_on.release(2)
    two.go_on.release(2)
    assert results([first, *others]) == [0, 1, 2, 3, 4]
    assert (one.batches, two.batches) == ([[0], [2, 4]], [[1, 3]])


def test_jobs_go_before_the_next_batch(batcher: Batcher, network: Gated) -> None:
    busy(batcher, network)
    waiting = put(batcher, network, 1)
    seen = batcher.submit_scoring(lambda: len(network.batches))
    network.go_on.release()
    assert seen.result(30) == 1
    network.go_on.release()
    assert results(waiting) == [1]


class Telling(Gated):
    """Tells what `tell` finds in the thread that encodes."""

    def __init__(self, tell: Callable[[], object]) -> None:
        super().__init__()
        self.tell = tell

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.tell()
        return pixels[:, 0, :1, :1]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_only_the_spare_lane_has_a_low_priority() -> None:
    def priority() -> None:
        both.wait(30)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    both = threading.Barrier(2)
    found: list[int] = []
    with closing(Batcher(1, 0.0, ServerMetrics(), spare_thread=True)) as with_spare:
        results(put(with_spare, Telling(priority), 0, 1))
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert sorted(found) == [here, here + batcher_module.SPARE_NICENESS]


def test_an_error_reaches_those_whom_it_concerns(batcher: Batcher) -> None:
    with pytest.raises(ZeroDivisionError):
        results(put(batcher, Telling(lambda: 1 / 0), 1))
    with pytest.raises(ZeroDivisionError):
        batcher.submit_scoring(lambda: 1 / 0).result(30)
    assert batcher.submit_scoring(lambda: 7).result(30) == 7


def test_closing_gives_up_what_waits(network: Gated) -> None:
    batcher = Batcher(1, 0.0, ServerMetrics())
    running = busy(batcher, network)
    (waiting,) = put(batcher, network, 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(30)
    network.go_on.release()
    closing.join(30)
    assert running.result(0).item() == 0
    with pytest.raises(NotAvailable):
        batcher.submit_scoring(lambda: 1)


def test_a_stream_of_jobs_keeps_no_image_out(batcher: Batcher, network: Gated) -> None:
    """There is always another job waiting, and the image is encoded all the same."""
    network.go_on.release()
    done = 0
    stop = threading.Event()

    def again() -> None:
        nonlocal done
        done += 1
        if not stop.is_set():
            batcher.submit_scoring(again)

    for _ in range(4):
        batcher.submit_scoring(again)
    try:
        assert results(put(batcher, network, 7)) == [7]
    finally:
        stop.set()
    assert done > 4


def test_jobs_wait_for_one_late_batch(batcher: Batcher, network: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images never stop coming, what finishes requests still gets its turn after each batch."""
    monkeypatch.setattr(batcher_module, "AGING_S", -1.0)
    order: list[str] = []
    busy(batcher, network)
    last = put(batcher, network, *range(1, 10))[-1]
    jobs = [batcher.submit_scoring(lambda: order.append(f"job after {len(network.batches)}")) for _ in range(3)]
    network.go_on.release(4)
    last.result(30)
    assert [each.result(30) for each in jobs] == [None] * 3
    assert order == ["job after 1"] * 3
