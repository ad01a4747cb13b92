"""Exponential backoff: how long to wait before each next attempt."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first_s: float, most_s: float, factor: float = 2.0) -> Iterator[float]:
    """Seconds to wait after the first, second, ... failure, at most `most_s`, without end."""
    pause_s = first_s
    while True:
        yield min(pause_s, most_s)
        pause_s = min(pause_s * factor, most_s)
