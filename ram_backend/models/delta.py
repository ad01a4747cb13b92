"""Linear adapter on the bundle's log-odds: what a project's version changes about the tags that it names.

A tag's log-odds under a delta are

    base_scale * base_log_odds + features . weight + bias

where `base_log_odds` are those that the bundle itself gives the tag (its logit after the bundle's calibration) and
`features` describe the image as a whole. So a delta costs one small matrix product, needs no network of its own, and
can't touch tags that it doesn't name.

Shapes: N images, K tags of the delta, T tokens of width D, F feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import VersionDamaged

FloatArray = NDArray[np.float32]

TENSORS = ("base_scale", "weight", "bias", "thresholds")
"""Names of the arrays that `Delta.to_tensors` gives."""
_OLD_TENSORS = ("trust", "weight", "bias", "slope", "offset", "thresholds")
"""Those of versions that were written when a delta had a calibration of its own."""


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
        base_scale: (K,) float32 above 0, factor on the bundle's log-odds.
        weight: (K, F) float32 on `features_of(tokens)`.
        bias: (K,) float32.
        thresholds: (K,) float32 in [0, 1): a tag is on where its score is strictly above.

    Raises:
        VersionDamaged: shapes that don't fit each other, a value that is not finite or out of its range, a tag twice.
    """

    tags: tuple[str, ...]
    base_scale: FloatArray
    weight: FloatArray
    bias: FloatArray
    thresholds: FloatArray

    def __post_init__(self) -> None:
        for name in ("base_scale", "weight", "bias", "thresholds"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        count = len(self.tags)
        if len(set(self.tags)) != count or not all(isinstance(tag, str) and tag for tag in self.tags):
            raise _damaged("names a tag twice, or an empty one")
        if self.weight.ndim != 2 or len(self.weight) != count:
            raise _damaged(f"is for {count} tags, but has weights {self.weight.shape}")
        for name in ("base_scale", "bias", "thresholds"):
            if getattr(self, name).shape != (count,):
                raise _damaged(f"is for {count} tags, but has {name} {getattr(self, name).shape}")
        for name in ("base_scale", "weight", "bias", "thresholds"):
            if not np.isfinite(getattr(self, name)).all():
                raise _damaged(f"has {name} that are not finite")
        if (self.base_scale <= 0).any():
            raise _damaged("has a base_scale that is not above 0")
        if ((self.thresholds < 0) | (self.thresholds >= 1)).any():
            raise _damaged("has a threshold outside [0, 1)")

    @classmethod
    def identity(cls, tags: Sequence[str], thresholds: FloatArray, width: int) -> Delta:
        """The delta that changes nothing: thresholds (K,) are the bundle's, `width` is F."""
        count = len(tags)
        return cls(
            tags=tuple(tags),
            base_scale=np.ones(count, dtype=np.float32),
            weight=np.zeros((count, width), dtype=np.float32),
            bias=np.zeros(count, dtype=np.float32),
            thresholds=thresholds,
        )

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def width(self) -> int:
        """F."""
        return int(self.weight.shape[1])

    def log_odds(self, base_log_odds: FloatArray, features: FloatArray) -> FloatArray:
        """Calibrated log-odds under the delta.

        Args:
            base_log_odds: (N, K) the bundle's calibrated log-odds of the delta's tags.
            features: (N, F), see `features_of`.

        Returns:
            (N, K) float32.
        """
        found = base_log_odds * self.base_scale + features @ self.weight.T + self.bias
        return np.asarray(found, dtype=np.float32)

    def take(self, rows: Sequence[int]) -> Delta:
        """The delta of a selection of its tags, in that order."""
        places = list(rows)
        return Delta(
            tags=tuple(self.tags[row] for row in places),
            base_scale=self.base_scale[places],
            weight=self.weight[places],
            bias=self.bias[places],
            thresholds=self.thresholds[places],
        )

    def to_tensors(self) -> dict[str, FloatArray]:
        """All numbers by the names in `TENSORS`, float32; the tags are not among them."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, tags: Sequence[str], tensors: Mapping[str, FloatArray]) -> Delta:
        """The delta that `to_tensors` took apart, now or when a delta had a calibration of its own.

        Raises:
            VersionDamaged: an array is missing or superfluous, is not float32, has a wrong shape, or holds a number
                that can't be.
        """
        names = _OLD_TENSORS if "trust" in tensors else TENSORS
        if set(tensors) != set(names):
            raise _damaged(f"has the arrays {sorted(tensors)} instead of {sorted(names)}")
        wrong = next((name for name in names if tensors[name].dtype != np.float32), None)
        if wrong is not None:
            raise _damaged(f"has {wrong} as {tensors[wrong].dtype} instead of float32")
        return cls(tags=tuple(tags), **(_without_calibration(tensors) if names is _OLD_TENSORS else tensors))


def _without_calibration(tensors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The old arrays with their calibration, slope * logit + offset, folded into the numbers that make the logit.

    Raises:
        VersionDamaged: slopes or offsets that aren't one per tag, or slopes that aren't finite and above 0.
    """
    trust, bias, slope, offset = (tensors[name] for name in ("trust", "bias", "slope", "offset"))
    weight = tensors["weight"]
    if weight.ndim != 2 or any(each.shape != (len(weight),) for each in (trust, bias, slope, offset)):
        raise _damaged("has a trust, bias, slope or offset that isn't one number per row of its weights")
    if not (np.isfinite(slope).all() and (slope > 0).all()):
        raise _damaged("has a slope that is not finite or not above 0")
    return {
        "base_scale": trust * slope,
        "weight": weight * slope[:, None],
        "bias": bias * slope + offset,
        "thresholds": tensors["thresholds"],
    }


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version's delta {what}: it isn't served. Train again, or roll back to another version.")
