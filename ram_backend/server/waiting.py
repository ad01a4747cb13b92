"""Waiting in the event loop for what threads do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


async def shared(future: Future[T]) -> T:
    """The result of a future that others wait for too: it goes on when this waiting is cancelled."""
    return await asyncio.shield(asyncio.wrap_future(future))


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; where one fails, or the caller is cancelled, the others are ended, too."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_thread(threads: Executor, share: asyncio.Semaphore, work: Callable[[], T]) -> T:
    """The result of work in one of the threads, of which the share has so many: until it ends, awaited or not."""
    loop = asyncio.get_running_loop()

    def give_back(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(share.release)

    await share.acquire()
    try:
        future = threads.submit(work)
    except BaseException:
        share.release()
        raise
    future.add_done_callback(give_back)
    return await asyncio.wrap_future(future)


async def unless_gone(work: asyncio.Task[T], receive: Receive) -> T | None:
    """The result of a request's work, its body being read; None where the caller went away: the work is cancelled."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)
