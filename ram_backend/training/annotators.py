"""Annotator filter: one-sided Poisson test of edits against calibrated expectations.

An untouched tag is a "no" at full weight, unless its annotator adds far fewer
tags than the scores expect: then tags that were off say nothing. Annotators who
remove far fewer, too, accept everything, and their photos are no evidence.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

FAR_FEWER = 0.4
"""Share of the expected edits below which they are far fewer..."""
CERTAIN = 0.01
"""...where the probability of as few, at that share, is at most this."""

BoolArray = NDArray[np.bool_]


def reliable_pairs(
    scores: NDArray[np.floating], labels: BoolArray, known: BoolArray, ticked: BoolArray, annotators: Sequence[Hashable]
) -> BoolArray:
    """The known pairs that are evidence.

    Args:
        scores: (N, L) calibrated probabilities of the bundle.
        labels: (N, L).
        known: (N, L).
        ticked: (N, L) tags that were ticked when the annotator began.
        annotators: of the N images, equal where the same people annotated.

    Returns:
        (N, L).
    """
    reliable = known.copy()
    numbers = {each: number for number, each in enumerate(dict.fromkeys(annotators))}
    of_row = np.array([numbers[each] for each in annotators], dtype=np.int64)
    off, on = known & ~ticked, known & ticked
    expected = [(scores * off).sum(axis=1), ((1 - scores) * on).sum(axis=1)]
    edits = [(labels & off).sum(axis=1), (~labels & on).sum(axis=1)]
    for number in numbers.values():
        rows = of_row == number
        added, removed = (
            _far_fewer(int(e[rows].sum()), float(x[rows].sum())) for e, x in zip(edits, expected, strict=True)
        )
        if added:
            reliable[rows] &= on[rows] & (not removed)
    return reliable


def _far_fewer(edits: int, expected: float) -> bool:
    from scipy.stats import poisson

    return bool(poisson.cdf(edits, FAR_FEWER * expected) <= CERTAIN)
