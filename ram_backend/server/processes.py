"""Process pool for work that would hold Python's global lock or much memory: large bodies, large images."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from ram_backend.errors import ImageError, NotAvailable
from ram_backend.server.model import CLOSING
from ram_backend.tagging.image_loader import release_memory, unmap_freed_memory

IDLE_S = 20.0
"""Idle timeout: the processes then end, and this one gives freed memory back."""

BYTES_PER_PIXEL, OTHER_BYTES = 8, 80_000_000
"""Memory limit of `decode`: for the largest image that is allowed (most decoders take 5 to 8 bytes), and all else."""

P = ParamSpec("P")
T = TypeVar("T")


class ProcessPool:
    """Processes that start when they are first needed, and end with this one.

    Args:
        count: most of them.
        max_pixels: of the largest image, for the memory limit of `decode`.
    """

    def __init__(self, count: int, max_pixels: int) -> None:
        self._count = count
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False
        self._running = 0
        self._idle: threading.Timer | None = None

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a module's function in one of the processes, once it is done.

        Raises:
            NotAvailable: a process has ended, probably out of memory, or the
                server is going down.
        """
        try:
            with self.in_use():
                with self._lock:
                    if self._closed:
                        raise NotAvailable(CLOSING)
                    if self._pool is None:
                        spawn = multiprocessing.get_context("spawn")
                        self._pool = ProcessPoolExecutor(self._count, mp_context=spawn, initializer=_begin)
                    future = self._pool.submit(work, *args, **kwargs)
                return future.result()
        except BrokenProcessPool:
            self._retire()
            raise NotAvailable("A process that does heavy work was ended, probably out of memory.") from None
        except ImageError:  # some decoders keep their memory where they fail
            self._retire()
            raise
        except (CancelledError, RuntimeError):
            if not self._closed:
                raise
            raise NotAvailable(CLOSING) from None

    def decode(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, within a memory limit, which is for Pillow: pydantic hangs where it gets no memory.

        Raises:
            ImageError: of `work`, also for want of memory.
        """
        limit = BYTES_PER_PIXEL * self._max_pixels + OTHER_BYTES
        return self.run(_limited, limit, partial(work, *args, **kwargs))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The idle timeout begins when this ends."""
        with self._lock:
            self._running += 1
            if self._idle is not None:
                self._idle.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running and not self._closed:
                    self._idle = threading.Timer(IDLE_S, self._end_idle)
                    self._idle.daemon = True
                    self._idle.start()

    def close(self) -> None:
        """Ends them after what they have begun."""
        self._closed = True
        self._retire(cancel=True)

    def _retire(self, *, cancel: bool = False) -> None:
        """The processes end after what they have begun, or were given (unless `cancel`); others take their place."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=cancel)

    def _end_idle(self) -> None:
        if not self._running:
            self._retire()
            gc.collect()  # tracebacks of refusals hold large bodies
            release_memory()


def _limited(max_bytes: int, work: Callable[[], T]) -> T:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])  # of data and stacks
    limit = pages * resource.getpagesize() + max_bytes
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _begin() -> None:
    """In a new process: leaves signals to its parent, ends with it, and lowers its priority."""
    unmap_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
