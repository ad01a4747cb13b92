"""Ridge regression of standardised labels on image features: the linear probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.starter.components import Probes
from starter.data import PRESENT, UNKNOWN

STRENGTH = 6.0
"""Ridge penalty per training row; features are standardised, so it is in units of their variance."""


def fit_probes(
    features: Sequence[NDArray[np.float32]],
    states: NDArray[np.int8],
    embeddings: NDArray[np.float32],
    strength: float = STRENGTH,
) -> Probes:
    """Ridge regression of standardised labels on standardised features, all tags at once.

    A pair that nobody knows counts as the tag's mean: it pulls in no direction.

    Args:
        features: (N, F) of the same photos under one or several views.
        states: (N, C): 1 present, 0 absent, -1 unknown; every tag with at least one present and one known absent photo.
        embeddings: (C, E) label embeddings.
        strength: see `STRENGTH`.
    """
    present, known = (states == PRESENT).astype(np.float32), states != UNKNOWN
    rate = present.sum(0) / np.maximum(known.sum(0), 1)
    targets = np.where(known, present - rate, 0) / (np.sqrt(rate * (1 - rate)) + np.float32(0.02))
    stacked = np.concatenate(list(features))
    mean, spread = stacked.mean(0), stacked.std(0) + np.float32(1e-3)
    gram = np.zeros((stacked.shape[1],) * 2, dtype=np.float64)
    moment = np.zeros((stacked.shape[1], states.shape[1]), dtype=np.float64)
    for view in features:
        scaled = (view - mean) / spread
        gram += scaled.T @ scaled
        moment += scaled.T @ targets
    gram[np.diag_indices_from(gram)] += strength * len(stacked)
    weight = np.ascontiguousarray(np.linalg.solve(gram, moment).T / spread, dtype=np.float32)
    return Probes(weight, -(weight @ mean), embeddings.astype(np.float32), (states == PRESENT).sum(0).astype(np.int32))
