"""Batching by size and deadline: images of concurrent requests are encoded together; short jobs go first."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import NotAvailable
from ram_backend.models.network import Network
from ram_backend.server.metrics import ServerMetrics

LATE_S = 0.1
"""An image that has waited so long goes before jobs that no batch has kept waiting: a stream of jobs keeps none out."""

T = TypeVar("T")
FloatArray = NDArray[np.float32]

_log = logging.getLogger(__name__)


@dataclass
class _Item:
    """An image that waits: its pixels (3, S, S), the network that shall encode it, and where the tokens go."""

    network: Network
    pixels: FloatArray
    arrived: float
    future: Future[FloatArray] = field(default_factory=Future)


@dataclass
class _Job:
    """Something else that uses a network, such as scoring."""

    work: Callable[[], object]
    future: Future[object] = field(default_factory=Future)


class Batcher:
    """Merges images into batches by size and deadline, one `encoder_id` at a time; in the order in which they came.

    A batch goes when it is full, or when its first image has waited `wait_s`. Jobs go before the next batch, for they
    finish requests; where its first image is late, only those that one batch has kept waiting already. Cancel the
    future of what nobody waits for any more: it is left out.

    Args:
        size: images in a batch, at most.
        wait_s: seconds that an image waits for others at most.
        metrics: told of queue and batches.
    """

    def __init__(self, size: int, wait_s: float, metrics: ServerMetrics) -> None:
        self._size = size
        self._wait_s = wait_s
        self._metrics = metrics
        self._items: deque[_Item] = deque()
        self._jobs: deque[_Job] = deque()
        self._waited = 0  # jobs that have waited for a batch already
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def encode(self, network: Network, pixels: FloatArray) -> Future[FloatArray]:
        """Tokens (T, D) float32 of one image, from pixels (3, S, S), when its batch has been encoded."""
        item = _Item(network, pixels, time.monotonic())
        with self._changed:
            self._refuse_if_stopped()
            self._items.append(item)
            self._metrics.queued.set(len(self._items))
            self._changed.notify()
        return item.future

    def run(self, work: Callable[[], T]) -> Future[T]:
        """The result of a short piece of work on a network, done before the next batch."""
        job = _Job(work)
        with self._changed:
            self._refuse_if_stopped()
            self._jobs.append(job)
            self._changed.notify()
        return job.future  # type: ignore[return-value]

    def close(self) -> None:
        """Ends the thread after what it does now; what waits is cancelled."""
        with self._changed:
            self._stopping = True
            for item in self._items:
                item.future.cancel()
            for job in self._jobs:
                job.future.cancel()
            self._changed.notify()
        self._thread.join(timeout=30)

    def _refuse_if_stopped(self) -> None:
        if self._stopping:
            raise NotAvailable("The server is going down: ask again in a moment.")

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, _Job):
                if work.future.set_running_or_notify_cancel():
                    with self._metrics.stage("score"):
                        _settle(work.future, work.work)
            else:
                self._encode(work)
                with self._changed:
                    self._waited = len(self._jobs)
            del work  # a thread that waits keeps no images

    def _next(self) -> _Job | list[_Item] | None:
        """Waits for the next thing to do; None: there is nothing more to come."""
        with self._changed:
            while not self._stopping:
                while self._items and self._items[0].future.cancelled():
                    self._items.popleft()
                waited = time.monotonic() - self._items[0].arrived if self._items else 0.0
                if self._jobs and (self._waited > 0 or waited <= LATE_S):
                    self._waited = max(0, self._waited - 1)
                    return self._jobs.popleft()
                if self._items and (len(self._items) >= self._size or waited >= self._wait_s):
                    return self._take_batch()
                self._changed.wait(self._wait_s - waited if self._items else None)
            return None

    def _take_batch(self) -> list[_Item]:
        """The oldest images of one encoder; the others keep their places."""
        encoder = self._items[0].network.encoder_id
        batch: list[_Item] = []
        kept: deque[_Item] = deque()
        while self._items and len(batch) < self._size:
            item = self._items.popleft()
            if item.network.encoder_id != encoder:
                kept.append(item)
            elif item.future.set_running_or_notify_cancel():
                batch.append(item)
        self._items.extendleft(reversed(kept))
        self._metrics.queued.set(len(self._items))
        return batch

    def _encode(self, batch: list[_Item]) -> None:
        if not batch:
            return
        self._metrics.batch(len(batch))
        try:
            with self._metrics.stage("encode"):
                tokens = batch[0].network.encode(np.stack([item.pixels for item in batch]))
        except Exception as error:
            _log.exception("Encoding %d images failed", len(batch))
            for item in batch:
                item.future.set_exception(error)
            return
        for item, row in zip(batch, tokens, strict=True):
            item.future.set_result(row)


def _settle(future: Future[object], work: Callable[[], object]) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
