"""What a project's version changes about a bundle: per tag a few numbers on top of what the bundle already computes.

A tag's logit under a delta is

    logit = trust * z + features . weight + bias

where z is the log-odds that the bundle itself gives the tag (its logit after the bundle's calibration) and `features`
describe the image as a whole. So a delta costs one small matrix product, needs no network of its own, and can't touch
tags that it doesn't name.

Shapes: N images, K tags of the delta, T tokens of width D, F feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged, VersionDamaged
from ram_backend.models.calibration import Calibration

FloatArray = NDArray[np.float32]

TENSORS = ("trust", "weight", "bias", "slope", "offset", "thresholds")
"""Names of the arrays that `Delta.to_tensors` gives."""


def features_of(tokens: NDArray[np.float32] | NDArray[np.float16]) -> FloatArray:
    """What deltas see of an image: its global token, the first one of every bundle's.

    Args:
        tokens: (N, T, D).

    Returns:
        (N, F) float32 with F = D.
    """
    return np.ascontiguousarray(tokens[:, 0, :], dtype=np.float32)


def feature_width(token_shape: tuple[int, int]) -> int:
    """F for a network with tokens of that shape (T, D)."""
    return int(token_shape[1])


@dataclass(frozen=True)
class Delta:
    """Changes of K tags; all other tags stay the bundle's.

    Attributes:
        tags: K distinct texts, as the tagger is asked for them.
        trust: (K,) float32 above 0, factor on the bundle's log-odds.
        weight: (K, F) float32 on `features_of(tokens)`.
        bias: (K,) float32.
        calibration: from the delta's logits to scores, K tags.
        thresholds: (K,) float32 in [0, 1): a tag is on where its score is strictly above.

    Raises:
        VersionDamaged: shapes that don't fit each other, a value that is not finite or out of its range, a tag twice.
    """

    tags: tuple[str, ...]
    trust: FloatArray
    weight: FloatArray
    bias: FloatArray
    calibration: Calibration
    thresholds: FloatArray

    def __post_init__(self) -> None:
        for name in ("trust", "weight", "bias", "thresholds"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        count = len(self.tags)
        if len(set(self.tags)) != count or not all(isinstance(tag, str) and tag for tag in self.tags):
            raise _damaged("names a tag twice, or an empty one")
        if self.weight.ndim != 2 or len(self.weight) != count or len(self.calibration) != count:
            raise _damaged(f"is for {count} tags, but has weights {self.weight.shape}")
        for name in ("trust", "bias", "thresholds"):
            if getattr(self, name).shape != (count,):
                raise _damaged(f"is for {count} tags, but has {name} {getattr(self, name).shape}")
        for name in ("trust", "weight", "bias", "thresholds"):
            if not np.isfinite(getattr(self, name)).all():
                raise _damaged(f"has {name} that are not finite")
        if (self.trust <= 0).any():
            raise _damaged("has a trust that is not above 0")
        if ((self.thresholds < 0) | (self.thresholds >= 1)).any():
            raise _damaged("has a threshold outside [0, 1)")

    @classmethod
    def identity(cls, tags: Sequence[str], thresholds: FloatArray, width: int) -> Delta:
        """The delta that changes nothing: thresholds (K,) are the bundle's, `width` is F."""
        count = len(tags)
        return cls(
            tags=tuple(tags),
            trust=np.ones(count, dtype=np.float32),
            weight=np.zeros((count, width), dtype=np.float32),
            bias=np.zeros(count, dtype=np.float32),
            calibration=Calibration.identity(count),
            thresholds=thresholds,
        )

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def width(self) -> int:
        """F."""
        return int(self.weight.shape[1])

    def logits(self, z: FloatArray, features: FloatArray) -> FloatArray:
        """Logits before the delta's calibration.

        Args:
            z: (N, K) the bundle's calibrated log-odds of the delta's tags.
            features: (N, F), see `features_of`.

        Returns:
            (N, K) float32.
        """
        found: FloatArray = (z * self.trust + features @ self.weight.T + self.bias).astype(np.float32)
        return found

    def log_odds(self, z: FloatArray, features: FloatArray) -> FloatArray:
        """Calibrated log-odds (N, K): what `z` is for the bundle; arguments as in `logits`."""
        return self.calibration.log_odds(self.logits(z, features))

    def take(self, rows: Sequence[int]) -> Delta:
        """The delta of a selection of its tags, in that order."""
        places = list(rows)
        return Delta(
            tags=tuple(self.tags[row] for row in places),
            trust=self.trust[places],
            weight=self.weight[places],
            bias=self.bias[places],
            calibration=self.calibration.take(places),
            thresholds=self.thresholds[places],
        )

    def to_tensors(self) -> dict[str, FloatArray]:
        """All numbers by the names in `TENSORS`, float32; the tags are not among them."""
        return {
            "trust": self.trust,
            "weight": self.weight,
            "bias": self.bias,
            "slope": self.calibration.slope,
            "offset": self.calibration.offset,
            "thresholds": self.thresholds,
        }

    @classmethod
    def from_tensors(cls, tags: Sequence[str], tensors: Mapping[str, FloatArray]) -> Delta:
        """The delta that `to_tensors` took apart.

        Raises:
            VersionDamaged: an array is missing or superfluous, is not float32, has a wrong shape, or holds a number
                that can't be.
        """
        if set(tensors) != set(TENSORS):
            raise _damaged(f"has the arrays {sorted(tensors)} instead of {sorted(TENSORS)}")
        wrong = next((name for name in TENSORS if tensors[name].dtype != np.float32), None)
        if wrong is not None:
            raise _damaged(f"has {wrong} as {tensors[wrong].dtype} instead of float32")
        try:
            calibration = Calibration(tensors["slope"], tensors["offset"])
        except BundleDamaged:
            raise _damaged("has a calibration whose slopes and offsets don't fit or are not finite") from None
        return cls(
            tags=tuple(tags),
            trust=tensors["trust"],
            weight=tensors["weight"],
            bias=tensors["bias"],
            calibration=calibration,
            thresholds=tensors["thresholds"],
        )


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version's delta {what}: it isn't served. Train again, or roll back to another version.")
