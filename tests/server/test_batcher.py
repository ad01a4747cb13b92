"""Batches by size, deadline and encoder; jobs first; nobody works for those who are gone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest

from ram_backend.errors import NotAvailable
from ram_backend.server import batcher as batcher_module
from ram_backend.server.batcher import Batcher
from ram_backend.server.metrics import ServerMetrics


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


def image(number: float) -> np.ndarray:
    return np.full((3, 2, 2), number, dtype=np.float32)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(3, 0.0, ServerMetrics())
    yield made
    made.close()


def test_what_waits_is_merged_up_to_the_size(batcher: Batcher) -> None:
    network = Gated()
    first = batcher.encode(network, image(0))  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    others = [batcher.encode(network, image(number)) for number in range(1, 6)]  # type: ignore[arg-type]
    for _ in range(3):
        network.go_on.release()
    assert [future.result(30).item() for future in (first, *others)] == [0, 1, 2, 3, 4, 5]
    assert network.batches == [[0], [1, 2, 3], [4, 5]]


def test_encoders_are_not_mixed_and_keep_their_order(batcher: Batcher) -> None:
    one, two = Gated("one"), Gated("two")
    head = batcher.encode(one, image(0))  # type: ignore[arg-type]
    assert one.entered.acquire(timeout=30)
    futures = [batcher.encode(network, image(number)) for number, network in enumerate([two, one, two, one], start=1)]  # type: ignore[arg-type]
    for network in (one, two):
        for _ in range(2):
            network.go_on.release()
    assert [future.result(30).item() for future in (head, *futures)] == [0, 1, 2, 3, 4]
    assert (one.batches, two.batches) == ([[0], [2, 4]], [[1, 3]])


def test_jobs_go_before_the_next_batch(batcher: Batcher) -> None:
    network = Gated()
    batcher.encode(network, image(0))  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    waiting = batcher.encode(network, image(1))  # type: ignore[arg-type]
    seen = batcher.run(lambda: len(network.batches))
    network.go_on.release()
    assert seen.result(30) == 1
    network.go_on.release()
    waiting.result(30)


@pytest.fixture
def with_spare() -> Iterator[Batcher]:
    made = Batcher(1, 0.0, ServerMetrics(), spare_lane=True)
    yield made
    made.close()


def test_a_spare_lane_works_beside_the_first(with_spare: Batcher) -> None:
    network = Gated()
    futures = [with_spare.encode(network, image(number)) for number in (0, 1, 2)]  # type: ignore[arg-type]
    for _ in range(2):
        assert network.entered.acquire(timeout=30)
    assert with_spare.encode(network, image(3)).cancel()  # type: ignore[arg-type]
    for _ in range(3):
        network.go_on.release()
    assert [future.result(30).item() for future in futures] == [0, 1, 2]
    assert sorted(network.batches) == [[0], [1], [2]]


def test_a_spare_lane_leaves_networks_alone_that_use_all_threads_for_each_call(with_spare: Batcher) -> None:
    network = Gated()
    network.side_by_side = False
    futures = [with_spare.encode(network, image(number)) for number in (0, 1)]  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    assert not network.entered.acquire(timeout=0.2)
    for _ in range(2):
        network.go_on.release()
    assert [future.result(30).item() for future in futures] == [0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_only_the_spare_lane_has_a_low_priority(with_spare: Batcher) -> None:
    class Telling(Gated):
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            both.wait(30)
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return pixels[:, 0, :1, :1]

    both, network = threading.Barrier(2), Telling()
    found: list[int] = []
    for future in [with_spare.encode(network, image(number)) for number in range(2)]:  # type: ignore[arg-type]
        future.result(30)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert sorted(found) == [here, here + batcher_module.SPARE_NICENESS]


def test_a_spare_lane_does_nothing_while_the_first_has_a_short_job(with_spare: Batcher) -> None:
    network, go_on = Gated(), threading.Event()
    job = with_spare.run(lambda: go_on.wait(30))
    future = with_spare.encode(network, image(0))  # type: ignore[arg-type]
    assert not network.entered.acquire(timeout=0.2)
    go_on.set()
    assert job.result(30)
    network.go_on.release()
    assert future.result(30).item() == 0


def test_a_spare_lane_does_nothing_while_the_first_is_free(with_spare: Batcher) -> None:
    class Telling(Gated):
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            lanes.add(threading.current_thread().name)
            return pixels[:, 0, :1, :1]

    network, lanes = Telling(), set[str]()
    for number in range(100):
        with_spare.encode(network, image(number)).result(30)  # type: ignore[arg-type]
    assert lanes == {"network"}


def test_cancelled_images_are_left_out(batcher: Batcher) -> None:
    network = Gated()
    batcher.encode(network, image(0))  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    futures = [batcher.encode(network, image(number)) for number in (1, 2, 3)]  # type: ignore[arg-type]
    assert futures[0].cancel()
    assert futures[2].cancel()
    for _ in range(2):
        network.go_on.release()
    futures[1].result(30)
    assert network.batches == [[0], [2]]


def test_an_error_reaches_those_whom_it_concerns(batcher: Batcher) -> None:
    class Failing(Gated):
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        batcher.encode(Failing(), image(1)).result(30)  # type: ignore[arg-type]

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        batcher.run(fail).result(30)
    assert batcher.run(lambda: 7).result(30) == 7


def test_closing_gives_up_what_waits() -> None:
    batcher, network = Batcher(1, 0.0, ServerMetrics()), Gated()
    running = batcher.encode(network, image(0))  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    waiting = batcher.encode(network, image(1))  # type: ignore[arg-type]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(30)
    network.go_on.release()
    closing.join(30)
    assert running.result(0).item() == 0
    with pytest.raises(NotAvailable):
        batcher.run(lambda: 1)


def test_a_stream_of_jobs_keeps_no_image_out(batcher: Batcher) -> None:
    """There is always another job waiting, and the image is encoded all the same."""
    network = Gated()
    network.go_on.release()
    done = 0
    stop = threading.Event()

    def again() -> None:
        nonlocal done
        done += 1
        if not stop.is_set():
            batcher.run(again)

    for _ in range(4):
        batcher.run(again)
    try:
        assert batcher.encode(network, image(7)).result(30).item() == 7  # type: ignore[arg-type]
    finally:
        stop.set()
    assert done > 4


def test_jobs_wait_for_one_late_batch_at_most(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images never stop coming, what finishes requests still gets its turn after each batch."""
    monkeypatch.setattr(batcher_module, "LATE_S", -1.0)
    network = Gated()
    order: list[str] = []
    batcher.encode(network, image(0))  # type: ignore[arg-type]
    assert network.entered.acquire(timeout=30)
    last = [batcher.encode(network, image(number)) for number in range(1, 10)][-1]  # type: ignore[arg-type]
    jobs = [batcher.run(lambda: order.append(f"job after {len(network.batches)}")) for _ in range(3)]
    for _ in range(4):
        network.go_on.release()
    last.result(30)
    assert [each.result(30) for each in jobs] == [None] * 3
    assert order == ["job after 1"] * 3
