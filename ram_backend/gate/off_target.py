"""Off-target regression check: relative score shift and mAP agreement with the bundle.

A tag outside the project's subset may be asked for tomorrow. A candidate that
changes only the project's tags leaves the others bit for bit alone; one that
tuned the head doesn't. The bundle's own scores are the measure: nobody labelled
these tags. The limits come from noise put on the log-odds of the shipped bundle
on three sets of labelled photos: a standard deviation of .2 costs .005 to .03
of these tags' mAP, moves their scores by 9 to 15 % of the mean score, and
leaves an agreement of .95 to .99.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.metrics import mean_average_precision

LARGEST_MOVE = 0.15
"""Mean absolute difference of the scores, in relation to the bundle's mean score. Relative, since most tags are wrong
for most images: a mean score is .01 to .03, and an absolute limit would mean something else for each bundle."""
LEAST_AGREEMENT = 0.97
"""mAP of the candidate's scores where the bundle's decisions (score above threshold) are taken for the truth."""

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class OffTargetShift:
    """How far a candidate left the bundle.

    Attributes:
        move: mean absolute difference of the scores, in [0, 1]; 0 where there
            is nothing to compare, inf where the candidate's are no
            probabilities.
        relative_move: the same, divided by the bundle's mean score; at least 0.
        agreement: mAP against the bundle's decisions, in (0, 1]; nan where it
            decides for no tag.
    """

    move: float
    relative_move: float
    agreement: float

    @property
    def harmless(self) -> bool:
        """Both limits are kept; an agreement that can't be measured doesn't count."""
        return self.relative_move <= LARGEST_MOVE and not self.agreement < LEAST_AGREEMENT


def measure_shift(bundle: FloatArray, candidate: FloatArray, thresholds: FloatArray) -> OffTargetShift:
    """Compares scores of tags outside the subset, on the project's images and the bundled photos.

    Args:
        bundle: (N, L) the bundle's calibrated scores, in [0, 1].
        candidate: (N, L) the candidate's; what is not a probability fails the
            check.
        thresholds: (L,) the bundle's, in [0, 1).
    """
    if not bundle.size:
        return OffTargetShift(0.0, 0.0, float("nan"))
    if not ((candidate >= 0) & (candidate <= 1)).all():
        return OffTargetShift(float("inf"), float("inf"), float("nan"))
    move = float(np.abs(candidate.astype(np.float64) - bundle).mean())
    mean_score = max(float(bundle.mean(dtype=np.float64)), np.finfo(np.float64).tiny)
    decided = bundle > thresholds
    evaluated = decided.any(axis=0) & ~decided.all(axis=0)
    agreement = float("nan")
    if evaluated.any():
        agreement = mean_average_precision(candidate[:, evaluated], decided[:, evaluated], min_positives=1)
    return OffTargetShift(move, move / mean_score, agreement)
