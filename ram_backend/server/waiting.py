"""Waiting in the event loop for what threads do."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")


async def shared(future: Future[T]) -> T:
    """The result of a future that others wait for too: it goes on when this waiting is cancelled."""
    return await asyncio.shield(asyncio.wrap_future(future))


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
