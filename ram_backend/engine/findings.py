"""Findings: labels that are probably wrong or missing, with probability and sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ram_backend.engine.signals import SIGNALS

Kind = Literal["wrong", "missing"]

DROP_BELOW = 0.6
"""A label is suspected where the tag's probability is below this."""
ADD_ABOVE = 0.5
"""A tag is proposed from this probability on; its measured precision is in the docs."""
VOTE = 1.0
"""Standard deviations above a tag's mean (for wrong: below) for a signal's vote."""


@dataclass(frozen=True)
class Finding:
    """One label to look at.

    Attributes:
        number: of the image.
        tag: its name.
        kind: "wrong": it is on and shouldn't be; "missing": the reverse.
        probability: that the label is wrong, in [0, 1].
        sources: signals that say so, the strongest first.
    """

    number: int
    tag: str
    kind: Kind
    probability: float
    sources: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {**asdict(self), "probability": round(self.probability, 4)}


def findings_of(
    numbers: NDArray[np.int64],
    tags: Sequence[str],
    present: NDArray[np.float64],
    standard: NDArray[np.floating],
    labels: NDArray[np.bool_],
    known: NDArray[np.bool_],
) -> Iterator[Finding]:
    """The findings of n images, in their order.

    A missing tag needs the vote of two signals besides its probability.

    Args:
        numbers: (n,) of the images.
        tags: L names.
        present: (n, L) posterior that the tag is there.
        standard: (S, n, L) standardised signals.
        labels: (n, L).
        known: (n, L).
    """
    wrong = labels & known & (present < DROP_BELOW)
    missing = ~labels & known & (present >= ADD_ABOVE) & ((standard >= VOTE).sum(axis=0) >= 2)
    for row, column in np.argwhere(wrong | missing).tolist():
        on = bool(wrong[row, column])
        against = -standard[:, row, column] if on else standard[:, row, column]
        order = [place for place in np.argsort(-against) if against[place] >= (0 if on else VOTE)]
        probability = float(1 - present[row, column] if on else present[row, column])
        sources = tuple(SIGNALS[place] for place in order)
        yield Finding(int(numbers[row]), tags[column], "wrong" if on else "missing", probability, sources)
