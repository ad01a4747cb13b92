"""Platt scaling per tag: from logits to scores by one increasing curve each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged

FILE = "calibration.safetensors"
NEUTRAL = 0.5
"""Threshold of a calibrated tag: least expected cost, if adding costs as removing.

Other thresholds, such as the authors', are not about costs and stay.
"""
Real = TypeVar("Real", np.float32, np.float64)


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid(slope * logit + offset), per tag (Platt scaling).

    A positive slope keeps the order of images under a tag, so calibration never
    changes an average precision.

    Attributes:
        slope: (L,) float32, above 0.
        offset: (L,) float32.
        new_slope, new_offset: of tags that the vocabulary doesn't have.
    """

    slope: NDArray[np.floating]
    offset: NDArray[np.floating]
    new_slope: float = 1.0
    new_offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", np.asarray(self.slope, dtype=np.float32))
        object.__setattr__(self, "offset", np.asarray(self.offset, dtype=np.float32))
        slopes = np.append(self.slope, self.new_slope)
        offsets = np.append(self.offset, self.new_offset)
        finite = np.isfinite(slopes).all() and np.isfinite(offsets).all()
        if slopes.shape != offsets.shape or not finite or not (slopes > 0).all():
            raise BundleDamaged("A calibration needs finite slopes above 0 and offsets. Make the bundle again.")

    def __len__(self) -> int:
        return len(self.slope)

    @property
    def fitted(self) -> bool:
        """Scores are probabilities; False: sigmoids, of which thresholds count."""
        return not ((self.slope == 1) & (self.offset == 0)).all()

    def log_odds(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (..., L) to calibrated log-odds of the same shape, float32."""
        return np.asarray(logits, dtype=np.float32) * self.slope + self.offset

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (..., L) to scores in [0, 1] of the same shape, float32."""
        return sigmoid(self.log_odds(logits))

    def take(self, rows: Sequence[int | None]) -> Calibration:
        """The calibration of a selection of tags, in that order; None: a new tag."""
        slope = np.array([self.new_slope if row is None else self.slope[row] for row in rows])
        offset = np.array([self.new_offset if row is None else self.offset[row] for row in rows])
        return Calibration(slope, offset, self.new_slope, self.new_offset)

    @classmethod
    def load(cls, directory: Path, tags: int, *, new_slope: float = 1.0, new_offset: float = 0.0) -> Calibration:
        """Reads a bundle's file; the identity where it has none (RAM, RAM++, Tag2Text).

        Raises:
            BundleDamaged: the file is malformed, or for another number of tags.
        """
        path = directory / FILE
        if not path.exists():
            return cls(np.ones(tags), np.zeros(tags), new_slope, new_offset)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
            calibration = cls(arrays["slope"], arrays["offset"], new_slope, new_offset)
        except (SafetensorError, KeyError, OSError) as error:
            raise BundleDamaged(f"{path}: no calibration ({error}). Make the bundle again.") from None
        if len(calibration) != tags:
            raise BundleDamaged(f"{path} is for {len(calibration)} tags, the vocabulary has {tags}. Make it again.")
        return calibration


def cost_thresholds(thresholds: NDArray[Real], add_costs: NDArray[np.floating] | float) -> NDArray[Real]:
    """Thresholds of least expected cost, 1 / (1 + add_costs), in place of `NEUTRAL`.

    Args:
        thresholds: (L,); those that are not `NEUTRAL` stay.
        add_costs: (L,) or one, above 0: of adding a tag, in removed ticks.

    Returns:
        (L,) of the type of `thresholds`.
    """
    costly = np.asarray(1 / (1 + np.asarray(add_costs, dtype=np.float64)), dtype=thresholds.dtype)
    return np.where(thresholds == NEUTRAL, costly, thresholds)


def sigmoid(log_odds: NDArray[Real]) -> NDArray[Real]:
    """Log-odds of any shape to probabilities of the same type; never overflows."""
    small = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1 / (1 + small), small / (1 + small))
