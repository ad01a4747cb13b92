"""When a head is tuned at all; without torch, so that asking costs nothing."""

from __future__ import annotations

from typing import Literal

ENOUGH = 300
"""Images from which on "auto" tunes a head where there is a GPU: with fewer, the residual alone is better."""

Tuning = Literal["auto", "off", "whole", "low-rank"]


def tuning_rank(tuning: Tuning, *, images: int, on_gpu: bool, rank: int = 8) -> tuple[bool, int | None]:
    """Whether a head is to be tuned beside the residual, and at which rank.

    Args:
        tuning: what was asked for; "auto" leaves it to the other arguments.
        images: that may be fitted.
        on_gpu: whether the network runs on a GPU: on a CPU a round would take minutes instead of seconds.
        rank: of low-rank tuning.

    Returns:
        Whether, and r (None: the whole head).
    """
    wanted = tuning in ("whole", "low-rank") or (tuning == "auto" and on_gpu and images >= ENOUGH)
    return wanted, rank if tuning == "low-rank" else None
