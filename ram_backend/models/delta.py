"""Linear adapter on the bundle's log-odds: what a version changes about its tags.

A tag's log-odds under a delta are

    base_scale * base_log_odds + features . weight + bias

where `base_log_odds` are the bundle's own, calibrated, and `features` describe
the image as a whole. So a delta costs one small matrix product and can't touch
tags that it doesn't name.

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


def features_of(tokens: NDArray[np.float32] | NDArray[np.float16]) -> FloatArray:
    """What deltas see of images: token 0 of (N, T, D), as (N, F) float32, F = D."""
    return np.ascontiguousarray(tokens[:, 0, :], dtype=np.float32)


@dataclass(frozen=True)
class Delta:
    """Changes of K tags; all other tags stay the bundle's.

    Attributes:
        tags: K distinct texts, as the tagger is asked for them.
        base_scale: (K,) float32 above 0, factor on the bundle's log-odds.
        weight: (K, F) float32 on `features_of(tokens)`.
        bias: (K,) float32.
        thresholds: (K,) float32 in [0, 1): a tag is on where its score is
            strictly above.

    Raises:
        VersionDamaged: shapes that don't fit each other, a value that is not
            finite or out of its range, a tag twice.
    """

    tags: tuple[str, ...]
    base_scale: FloatArray
    weight: FloatArray
    bias: FloatArray
    thresholds: FloatArray

    def __post_init__(self) -> None:
        count = len(self.tags)
        if len(set(self.tags)) != count or not all(isinstance(tag, str) and tag for tag in self.tags):
            raise _damaged("names a tag twice, or an empty one")
        for name in TENSORS:
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, array)
            if array.ndim != (2 if name == "weight" else 1) or len(array) != count:
                raise _damaged(f"is for {count} tags, but has {name} {array.shape}")
            if not np.isfinite(array).all():
                raise _damaged(f"has {name} that are not finite")
        if (self.base_scale <= 0).any():
            raise _damaged("has a base_scale that is not above 0")
        if ((self.thresholds < 0) | (self.thresholds >= 1)).any():
            raise _damaged("has a threshold outside [0, 1)")

    @property
    def width(self) -> int:
        """F."""
        return int(self.weight.shape[1])

    def log_odds(self, base_log_odds: FloatArray, features: FloatArray) -> FloatArray:
        """Log-odds (N, K) under the delta, from the bundle's and features (N, F)."""
        found = base_log_odds * self.base_scale + features @ self.weight.T + self.bias
        return np.asarray(found, dtype=np.float32)

    def to_tensors(self) -> dict[str, FloatArray]:
        """All numbers by the names in `TENSORS`, float32, without the tags."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, tags: Sequence[str], tensors: Mapping[str, FloatArray]) -> Delta:
        """Inverse of `to_tensors`, also of when a delta had a calibration of its own.

        Raises:
            VersionDamaged: arrays are missing, superfluous, not float32, or
                malformed.
        """
        arrays = dict(tensors)
        wrong = next((name for name, array in arrays.items() if array.dtype != np.float32), None)
        if wrong is not None:
            raise _damaged(f"has {wrong} as {arrays[wrong].dtype} instead of float32")
        try:
            if "trust" in arrays:  # its own calibration goes into the numbers
                slope, offset = arrays.pop("slope"), arrays.pop("offset")
                arrays["base_scale"] = arrays.pop("trust") * slope
                arrays["weight"] = arrays["weight"] * slope[:, None]
                arrays["bias"] = arrays["bias"] * slope + offset
            if set(arrays) != set(TENSORS):
                raise _damaged(f"has the arrays {sorted(tensors)} instead of {sorted(TENSORS)}")
        except (KeyError, ValueError, IndexError) as error:
            raise _damaged(f"has arrays that don't fit each other ({error})") from None
        return cls(tags=tuple(tags), **arrays)


def _damaged(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version's delta {what}: it isn't served. Train again, or roll back.")
