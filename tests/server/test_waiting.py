"""What is waited for in the event loop, and what becomes of it when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ram_backend.server.predict import all_of, in_thread


def test_where_one_fails_the_others_are_ended() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("long")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError("failing")

    with pytest.raises(KeyError, match="failing"):
        asyncio.run(asyncio.wait_for(all_of([long(), failing()]), 10))
    assert ended == ["long"]


def test_results_are_in_order() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert asyncio.run(all_of(after(seconds) for seconds in (0.02, 0.0, 0.01))) == [0.02, 0.0, 0.01]


def test_a_thread_that_works_for_nobody_still_counts() -> None:
    go_on = threading.Event()

    async def main() -> None:
        share = asyncio.Semaphore(1)
        with ThreadPoolExecutor(2) as threads:
            first = asyncio.create_task(in_thread(threads, share, lambda: go_on.wait(30)))
            await asyncio.sleep(0.05)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert share.locked()
            go_on.set()
            assert await asyncio.wait_for(in_thread(threads, share, lambda: "second"), 10) == "second"

    asyncio.run(main())
