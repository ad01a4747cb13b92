"""Batching by size and deadline: images of concurrent requests are encoded together, between rounds of scorings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, MutableSequence, Sequence
from concurrent.futures import Future
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


class Batcher:
    """Merges images into batches by size and deadline, one `encoder_id` at a time, oldest first.

    A batch goes when it is full, or when its first image has waited `wait_s`.
    Before each batch go the scorings by a head that are queued by then, because
    they finish requests; later ones wait for it, so that none starves.

    Args:
        size: most images of a batch.
        wait_s: how long a batch waits to be filled, in seconds.
        metrics: of the server.
    """

    def __init__(self, size: int, wait_s: float, metrics: ServerMetrics) -> None:
        self._size = size
        self._wait_s = wait_s
        self._metrics = metrics
        self._items: list[_Item] = []
        self._scorings: list[tuple[Future[Any], Callable[[], Sequence[Any]]]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def encode(self, network: Network, pixels: FloatArray) -> Future[FloatArray]:
        """Tokens (T, D) float32 of one image, from pixels (3, S, S), when its batch has been encoded.

        Raises:
            NotAvailable: the batcher is closed.
        """
        item = _Item(network, pixels, time.monotonic())
        self._put(self._items, item)
        return item.future

    def submit_scoring(self, work: Callable[[], T]) -> Future[T]:
        """The result of a short piece of work on a network, done before the next batch.

        Raises:
            NotAvailable: the batcher is closed.
        """
        future: Future[T] = Future()
        self._put(self._scorings, (future, lambda: [work()]))
        return future

    def close(self) -> None:
        """Ends the thread after what it does now; what waits is cancelled."""
        with self._changed:
            self._stopping = True
            for future in [each.future for each in self._items] + [future for future, _ in self._scorings]:
                future.cancel()
            self._changed.notify_all()
        self._thread.join(timeout=30)

    def _put(self, queue: MutableSequence[Any], each: object) -> None:
        with self._changed:
            if self._stopping:
                raise NotAvailable(CLOSING)
            queue.append(each)
            self._metrics.queued.set(len(self._items))
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            self._score_queued()
            self._encode_due()

    def _score_queued(self) -> None:
        """Waits until there is something to do, and does the scorings."""
        with self._changed:
            if not (self._scorings or self._stopping):
                self._changed.wait(self._due_s())
            queued = self._scorings[:]
            self._scorings.clear()
        for future, work in queued:
            if future.set_running_or_notify_cancel():
                self._do("score", [future], work)

    def _encode_due(self) -> None:
        with self._changed:
            batch = self._take_batch() if self._due_s() == 0 else []
        if batch:
            self._metrics.batch_images.observe(len(batch))
            self._do("encode", [item.future for item in batch], partial(_encode, batch))

    def _due_s(self) -> float | None:
        """Seconds until the next batch goes; None: no image waits."""
        if not self._items:
            return None
        waited = time.monotonic() - self._items[0].arrived
        return 0.0 if len(self._items) >= self._size else max(0.0, self._wait_s - waited)

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

    def _take_batch(self) -> list[_Item]:
        """The oldest images of one encoder; cancelled ones are dropped."""
        encoder = self._items[0].network.encoder_id
        same = (item for item in self._items if item.network.encoder_id == encoder)
        batch = list(islice((item for item in same if item.future.set_running_or_notify_cancel()), self._size))
        self._items[:] = [item for item in self._items if not (item.future.running() or item.future.cancelled())]
        self._metrics.queued.set(len(self._items))
        return batch


def _encode(batch: Sequence[_Item]) -> Sequence[FloatArray]:
    return list(batch[0].network.encode(np.stack([item.pixels for item in batch])))
