"""Signals per image-tag pair, out of fold: ridge of image and best region, the model's, captions.

The ridge of an image learned from images of other folds alone (near-duplicates
share one), so a label says nothing about itself. All sums are taken portion by
portion: memory doesn't grow with the number of images, time grows linearly.

Shapes: N images in portions of n, L tags, T tokens (the first is the whole
image's, the others its regions), D their width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.training_set import FOLDS

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

SIGNALS = ("ridge", "region", "model", "caption")
"""The last one where there are captions."""
RIDGE = 0.02
"""Penalty per image and feature, in units of the features' variance."""


@dataclass(frozen=True)
class Portion:
    """Some images.

    Attributes:
        folds: (n,) in [0, `FOLDS`).
        tokens: (n, T, D) float16 or float32.
        scores: (n, L) a model's log-odds, which didn't learn from these labels.
        labels: (n, L) True: the tag is on.
        known: (n, L) False: not annotated.
        captions: (n, L) share of an image's captions that name the tag, or None.
    """

    folds: NDArray[np.int64]
    tokens: NDArray[np.floating]
    scores: FloatArray
    labels: BoolArray
    known: BoolArray
    captions: FloatArray | None = None


class CrossFittedRidge:
    """What images of other folds say: a ridge of each tag, without each fold.

    Args:
        portions: at least one; iterated over once.

    Attributes:
        rates: (L,) share of images with the tag, in (0, 1).
        weights: (F, D + 1, L) float32, without the images of a fold; the last row is the bias.
    """

    def __init__(self, portions: Iterable[Portion]) -> None:
        products = hits = said = np.zeros(())
        for portion in portions:
            features = _with_one(portion.tokens[:, 0])
            if not products.ndim:
                width, tags = features.shape[1], portion.labels.shape[1]
                products = np.zeros((FOLDS, width, width))
                hits, said = np.zeros((2, FOLDS, width, tags))
            for fold in np.unique(portion.folds):
                rows = portion.folds == fold
                products[fold] += features[rows].T @ features[rows]
                hits[fold] += features[rows].T @ (portion.labels & portion.known)[rows]
                said[fold] += features[rows].T @ portion.known[rows]
        self.rates = (hits[:, -1].sum(axis=0) + 0.5) / (said[:, -1].sum(axis=0) + 1)
        *sums, count = products.sum(axis=0)[-1]
        mean = np.array(sums) / count
        variance = np.diagonal(products.sum(axis=0))[:-1] / count - mean**2
        scale = 1 / (np.sqrt(np.maximum(variance, 0)) + 1e-3)
        standardise = np.concatenate([np.diag(scale), -(mean * scale)[None]])
        weights = []
        for fold in range(FOLDS):
            rest = np.arange(FOLDS) != fold
            gram, present, known = (each[rest].sum(axis=0) for each in (products, hits, said))
            rate = present[-1] / np.maximum(known[-1], 1)
            targets = (present - rate * known) / np.sqrt(rate * (1 - rate) + 1e-4)
            gram = standardise.T @ gram @ standardise
            gram[np.diag_indices_from(gram)] += RIDGE * len(gram) * max(products[rest, -1, -1].sum(), 1)
            weights.append(standardise @ np.linalg.solve(gram, standardise.T @ targets))
        self.weights = np.stack(weights).astype(np.float32)

    def signals(self, portion: Portion) -> FloatArray:
        """(S, n, L) in the order of `SIGNALS`, of any scale; higher: the tag is there."""
        scores = np.empty((*portion.tokens.shape[:2], self.weights.shape[2]), dtype=np.float32)
        for fold in range(FOLDS):
            rows = portion.folds == fold
            scores[rows] = _with_one(portion.tokens[rows]) @ self.weights[fold]
        regions = scores[:, 1:] if scores.shape[1] > 1 else scores
        named = [] if portion.captions is None else [portion.captions]
        return np.stack([scores[:, 0], regions.max(axis=1), portion.scores, *named])


def _with_one(tokens: NDArray[np.floating]) -> FloatArray:
    """Features (..., D) with a last one that is 1: its weight is the bias."""
    return np.concatenate([tokens.astype(np.float32), np.ones((*tokens.shape[:-1], 1), np.float32)], axis=-1)
