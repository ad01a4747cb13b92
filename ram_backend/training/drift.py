"""Conformal test martingales, and novelty of single photos: are they like those of a fit? Pure.

Shapes: N images of the fit, M new images, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ram_backend.vocabulary.prompts import unit_rows

ALARM_RATE = 0.01
"""Probability of an alarm, ever, on images drawn as those of the fit were."""

MOST_NEW = 1000
"""New images that are looked at, the first ones."""

FILE, MOST_IMAGES, MOST_FEATURES = "fit_features.safetensors", 300, 500
_SLOPES, _JUMP, _STREAM = np.array([[-1.0], [0.0], [1.0]]), 0.01, 4


@dataclass(frozen=True)
class Drift:
    """Number of new photos, and at which the alarm was raised; None: not."""

    photos: int
    alarm_at: int | None


def drift_of(fit: NDArray[np.floating], new: NDArray[np.floating], *, rate: float = ALARM_RATE, seed: int = 0) -> Drift:
    """Tests each feature as the images come.

    The conformal p-value of a new image is its randomised rank among the fit's
    images and the new ones so far: uniform and independent, as long as all are
    drawn alike. A martingale bets against that with a slope that jumps between
    up, down and none (the "simple jumper", Vovk et al. 2021). It exceeds
    F / `rate` with probability `rate` / F at most (Ville's inequality).

    Args:
        fit: (N, F).
        new: (M, F), in the order in which they came.
        rate: of false alarms, in (0, 1).
        seed: breaks ties.
    """
    new = new[:MOST_NEW]
    drawn = np.random.default_rng([_STREAM, seed])
    seen = np.concatenate([fit, new]).astype(np.float32)
    capital = np.full((len(_SLOPES), fit.shape[1]), 1 / len(_SLOPES))
    for count, image in enumerate(new, start=1):
        bag = seen[: len(fit) + count]
        ties = drawn.random(len(image)) * (bag == image).sum(axis=0)
        p_values = ((bag > image).sum(axis=0) + ties) / len(bag)
        capital = (1 - _JUMP) * capital + _JUMP * capital.mean(axis=0)
        capital *= 1 + _SLOPES * (p_values - 0.5)
        if capital.sum(axis=0).max() >= len(image) / rate:
            return Drift(len(new), count)
    return Drift(len(new), None)


def write_fit_features(features: NDArray[np.floating], content: Sequence[str]) -> dict[str, bytes]:
    """The version's file for `drift_since`: parts of features (N, F), N sha256."""
    from safetensors.numpy import save

    rows = np.linspace(0, len(features) - 1, min(len(features), MOST_IMAGES)).astype(np.int64)
    kept = np.ascontiguousarray(features[rows, :: _step(features.shape[1])], dtype=np.float16)
    short = np.array([_short(each) for each in content], dtype=np.uint64)
    return {FILE: save({"features": kept, "content": short})}


def drift_since(files: Mapping[str, bytes], images: Iterable[tuple[str, NDArray[np.floating]]]) -> Drift:
    """`drift_of` images after a fit: sha256 and features (F,), in order."""
    from safetensors.numpy import load

    arrays = load(files[FILE])
    fit, seen = arrays["features"], set(arrays["content"].tolist())
    unseen = (features for sha256, features in images if _short(sha256) not in seen)
    new = [features[:: _step(len(features))] for features in islice(unseen, MOST_NEW)]
    return drift_of(fit, np.array(new, dtype=np.float16).reshape(-1, fit.shape[1]))


class Novelty:
    """How far photos are from the nearest photo of a fit, by cosine distance.

    Copies among the fit's photos count once: nearest ones would all be copies.

    Args:
        files: of a version that has `FILE`.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        from safetensors.numpy import load

        self._fit = unit_rows(np.unique(load(files[FILE])["features"], axis=0).astype(np.float32))
        own = self._fit @ self._fit.T - 2 * np.eye(len(self._fit))
        self._typical = max(float(np.mean(1 - own.max(axis=1))), 1e-6)

    def of(self, features: NDArray[np.floating]) -> float:
        """Of a photo's features (F,), at least 0; 1.0 is the mean of the fit's photos, 0 one of these."""
        kept = unit_rows(features[None, :: _step(len(features))].astype(np.float32))
        return max(0.0, float(1 - (self._fit @ kept[0]).max())) / self._typical


def _step(features: int) -> int:
    return -(-features // MOST_FEATURES)


def _short(sha256: str) -> int:
    return int(sha256[:16], 16)
