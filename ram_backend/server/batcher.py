"""Batching of images by size and deadline; short scorings go first."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import NotAvailable
from ram_backend.models.network import Network
from ram_backend.server.model import CLOSING
from ram_backend.server.prometheus import ServerMetrics

AGING_S = 0.1
"""After this wait encoding comes before later scorings (aging)."""

SPARE_NICENESS = 5
"""Of the spare thread: it gets a third of another thread's CPU share."""

T = TypeVar("T")
FloatArray = NDArray[np.float32]

_log = logging.getLogger(__name__)


@dataclass
class _Item:
    """An image that waits: pixels (3, S, S), its network, and where the tokens go."""

    network: Network
    pixels: FloatArray
    arrived: float
    future: Future[FloatArray] = field(default_factory=Future)


class Batcher:
    """Merges images into batches by size and deadline, one `encoder_id` at a time.

    A batch goes with `size` images, or when its first one has waited `wait_s`.
    Scorings by a head go before the next batch, because they finish requests;
    after `AGING_S`, only those that were queued during the batch before.

    A spare worker thread of low priority encodes, too, while the first one is
    busy, for networks that gain by it (`Network.side_by_side`).

    What is asked for after `close` is refused with NotAvailable.

    Args:
        size: most images of a batch.
        wait_s: how long a batch waits to be filled, in seconds.
        metrics: of the server.
        spare_thread: whether there is one.
    """

    def __init__(self, size: int, wait_s: float, metrics: ServerMetrics, *, spare_thread: bool = False) -> None:
        self._size = size
        self._wait_s = wait_s
        self._metrics = metrics
        self._items: list[_Item] = []
        self._scorings: deque[tuple[Future[Any], Callable[[], Sequence[Any]]]] = deque()
        self._aged_scorings = 0  # scorings that won't wait for another batch
        self._busy = False  # with a batch: the first thread
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name="network", daemon=True)]
        if spare_thread:
            spare = threading.Thread(target=self._run, kwargs={"spare": True}, name="network-spare", daemon=True)
            self._threads.append(spare)
        for thread in self._threads:
            thread.start()

    def encode(self, network: Network, pixels: FloatArray) -> Future[FloatArray]:
        """Tokens (T, D) float32 of one image, from pixels (3, S, S)."""
        item = _Item(network, pixels, time.monotonic())
        self._put(self._items, item)
        return item.future

    def submit_scoring(self, work: Callable[[], T]) -> Future[T]:
        """The result of short work on a network, done before the next batch."""
        future: Future[T] = Future()
        self._put(self._scorings, (future, lambda: [work()]))
        return future

    def close(self) -> None:
        """Ends the threads after what they do now; what waits is cancelled."""
        with self._changed:
            self._stopping = True
            for future in [each.future for each in self._items] + [future for future, _ in self._scorings]:
                future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)

    def _put(self, queue: MutableSequence[Any], each: object) -> None:
        with self._changed:
            if self._stopping:
                raise NotAvailable(CLOSING)
            queue.append(each)
            self._metrics.queued.set(len(self._items))
            self._changed.notify_all()

    def _run(self, *, spare: bool = False) -> None:
        if spare and sys.platform == "linux":  # there a thread has its own priority
            with suppress(OSError):
                mine = os.getpriority(os.PRIO_PROCESS, 0)  # the process's, 0 by default
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, mine + SPARE_NICENESS))
        while (work := self._next(spare=spare)) is not None:
            work()
            del work  # a thread that waits holds no images

    def _do(self, stage: str, futures: Sequence[Future[Any]], compute: Callable[[], Sequence[Any]]) -> None:
        try:
            with self._metrics.stage_seconds.labels(stage).time():
                results = compute()
        except BaseException as error:
            _log.exception("%s of %d failed", stage, len(futures))
            for future in futures:
                future.set_exception(error)
        else:
            for future, result in zip(futures, results, strict=True):
                future.set_result(result)

    def _next(self, *, spare: bool) -> Callable[[], None] | None:
        """Waits for the next thing to do; None: there is nothing more to come."""
        with self._changed:
            if self._busy and not spare:
                self._busy, self._aged_scorings = False, len(self._scorings)
            while not self._stopping:
                waited = time.monotonic() - self._items[0].arrived if self._items else 0.0
                if self._scorings and not spare and (self._aged_scorings > 0 or waited <= AGING_S):
                    self._aged_scorings -= 1
                    future, work = self._scorings.popleft()
                    if future.set_running_or_notify_cancel():
                        return partial(self._do, "score", [future], work)
                elif self._items and (not spare or (self._busy and self._items[0].network.side_by_side)):
                    if len(self._items) < self._size and waited < self._wait_s:
                        self._changed.wait(self._wait_s - waited)
                    elif batch := self._take_batch():
                        if not spare:
                            self._busy = True
                            self._changed.notify_all()
                        return partial(self._do, "encode", [item.future for item in batch], partial(_encode, batch))
                else:
                    self._changed.wait()
            return None

    def _take_batch(self) -> list[_Item]:
        """The oldest images of one encoder; cancelled ones are dropped."""
        encoder = self._items[0].network.encoder_id
        same = (item for item in self._items if item.network.encoder_id == encoder)
        batch = list(islice((item for item in same if item.future.set_running_or_notify_cancel()), self._size))
        self._items[:] = [item for item in self._items if not (item.future.running() or item.future.cancelled())]
        self._metrics.queued.set(len(self._items))
        if batch:
            self._metrics.batch_images.observe(len(batch))
        return batch


def _encode(batch: Sequence[_Item]) -> Sequence[FloatArray]:
    return list(batch[0].network.encode(np.stack([item.pixels for item in batch])))
