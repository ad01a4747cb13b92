"""Evidence for each image-tag pair, out of fold: ridge, best region, region clusters, neighbours, the model's score.

Each signal about an image comes from images of other folds (near-duplicates
share one), so a label says nothing about itself. All sums are taken portion by
portion: memory doesn't grow with the number of images, time grows linearly.

Regions and their clusters follow RAM's cleaning step (arXiv 2306.03514, section
3.2), with the cells of the encoder's last layer in place of crops.

Shapes: N images in portions of n, L tags, T tokens (the first is the whole
image's), D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
T = TypeVar("T")

SIGNALS = ("ridge", "region", "cluster", "neighbours", "model")
FOLDS = 5
RIDGE = 0.02
"""Penalty per image and feature, in units of the features' variance."""
REFERENCES = 4096
"""Images that others are compared with (neighbours, region clusters): as many of each tag as there is room for."""
NEIGHBOURS, TEMPERATURE, PRIOR_COUNT = 30, 0.1, 3.0
"""Nearest references, the cosine over which their vote falls by e, and images of the tag's rate added to them."""
CLUSTERS, CLUSTER_WIDTH = 3, 64
"""Clusters of a tag's regions, and principal components that they are found in."""


@dataclass(frozen=True)
class Portion:
    """Some images.

    Attributes:
        numbers: (n,) int64 of the images, distinct over all portions.
        folds: (n,) in [0, `FOLDS`).
        tokens: (n, T, D) float16 or float32.
        scores: (n, L) a model's log-odds, which didn't learn from these labels.
        labels: (n, L) True: the tag is on.
        known: (n, L) False: not annotated.
    """

    numbers: NDArray[np.int64]
    folds: NDArray[np.int64]
    tokens: NDArray[np.floating]
    scores: FloatArray
    labels: BoolArray
    known: BoolArray

    def take(self, rows: NDArray[np.int64] | slice) -> Portion:
        """Some of the images."""
        tokens, scores = self.tokens[rows], self.scores[rows]
        return Portion(self.numbers[rows], self.folds[rows], tokens, scores, self.labels[rows], self.known[rows])


@dataclass(frozen=True)
class Lazy(Generic[T]):
    """`count` things that are made, or read, each time that they are iterated over."""

    make: Callable[[int], T]
    count: int

    def __iter__(self) -> Iterator[T]:
        return map(self.make, range(self.count))


class Evidence:
    """What the images of other folds say.

    Args:
        portions: at least one; iterated over several times.
    """

    def __init__(self, portions: Iterable[Portion]) -> None:
        self._fit_ridge(portions)
        self._take_references(portions)
        self._fit_clusters()

    def signals(self, portion: Portion) -> FloatArray:
        """(S, n, L) in the order of `SIGNALS`, each on a scale of its own; higher: the tag is there."""
        whole, region = self._ridge_scores(portion.tokens, portion.folds)
        cluster = np.zeros_like(whole)
        regions = self._reduced(portion.tokens[:, 1:])
        for fold in range(FOLDS):
            rows = np.flatnonzero(portion.folds == fold)
            likeness = regions[rows] @ self._centres[fold].reshape(-1, regions.shape[2]).T
            cluster[rows] = likeness.max(axis=1).reshape(len(rows), -1, CLUSTERS).max(axis=2)
        found = [whole, region.max(axis=1), cluster, self._neighbour_density(portion), portion.scores]
        return np.stack([signal.astype(np.float32) for signal in found])

    def _fit_ridge(self, portions: Iterable[Portion]) -> None:
        """Weights (F, D, L) without each fold, on standardised features."""
        first = next(iter(portions))
        width, tags = first.tokens.shape[2], first.labels.shape[1]
        count, total = np.zeros(FOLDS), np.zeros((FOLDS, width))
        products = np.zeros((FOLDS, width, width))
        present, known = np.zeros((FOLDS, width + 1, tags)), np.zeros((FOLDS, width + 1, tags))
        for portion in portions:
            features = portion.tokens[:, 0].astype(np.float32)
            for fold in np.unique(portion.folds):
                rows = portion.folds == fold
                some = features[rows]
                count[fold] += len(some)
                total[fold] += some.sum(axis=0)
                products[fold] += some.T @ some
                ones = np.concatenate([some, np.ones((len(some), 1), np.float32)], axis=1)
                present[fold] += ones.T @ (portion.labels & portion.known)[rows].astype(np.float32)
                known[fold] += ones.T @ portion.known[rows].astype(np.float32)
        self._mean = total.sum(axis=0) / count.sum()
        self._spread = np.sqrt(np.maximum(np.diagonal(products.sum(axis=0)) / count.sum() - self._mean**2, 0)) + 1e-3
        weights = []
        for fold in range(FOLDS):
            rest = np.arange(FOLDS) != fold
            images, sums = count[rest].sum(), total[rest].sum(0)
            hits, known_count = present[rest].sum(0), known[rest].sum(0)
            crossed = np.outer(sums, self._mean)
            gram = products[rest].sum(axis=0) - crossed - crossed.T + images * np.outer(self._mean, self._mean)
            gram /= np.outer(self._spread, self._spread)
            gram[np.diag_indices(width)] += RIDGE * width * max(images, 1)
            rate = hits[-1] / np.maximum(known_count[-1], 1)
            targets = (hits - rate * known_count) / np.sqrt(rate * (1 - rate) + 1e-4)
            centred = (targets[:-1] - np.outer(self._mean, targets[-1])) / self._spread[:, None]
            weights.append(np.linalg.solve(gram, centred) / self._spread[:, None])
        self._weights = np.stack(weights).astype(np.float32)
        self._biases = -(self._mean @ np.stack(weights))
        totals = known[:, -1].sum(axis=0)
        self.rates = (present[:, -1].sum(axis=0) + 0.5) / (totals + 1)
        self._mean, self._spread = self._mean.astype(np.float32), self._spread.astype(np.float32)

    def _ridge_scores(self, tokens: NDArray[np.floating], folds: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Scores of the whole image (n, L) and of each region (n, T - 1, L), by weights without the image's fold."""
        scores = np.empty((*tokens.shape[:2], self._weights.shape[2]), dtype=np.float32)
        for fold in range(FOLDS):
            rows = folds == fold
            scores[rows] = tokens[rows].astype(np.float32) @ self._weights[fold] + self._biases[fold]
        return scores[:, 0], scores[:, 1:] if scores.shape[1] > 1 else scores

    def _take_references(self, portions: Iterable[Portion]) -> None:
        """Images that others are compared with: all, or evenly spread ones, the same number of each tag first."""
        labels = np.concatenate([portion.labels & portion.known for portion in portions])
        chosen = np.arange(len(labels))
        if len(labels) > REFERENCES:
            quota = max(1, REFERENCES // (2 * labels.shape[1]))
            shown = [np.flatnonzero(column) for column in labels.T]
            some = [rows[np.linspace(0, len(rows) - 1, min(quota, len(rows))).astype(int)] for rows in shown]
            spread = np.linspace(0, len(labels) - 1, REFERENCES // 2).astype(int)
            chosen = np.unique(np.concatenate([spread, *some]))
        taken: list[Portion] = []
        start = 0
        for portion in portions:
            rows = chosen[(chosen >= start) & (chosen < start + len(portion.labels))] - start
            start += len(portion.labels)
            taken.append(portion.take(rows))
        names = ("numbers", "folds", "tokens", "scores", "labels", "known")
        self._references = Portion(*(np.concatenate([getattr(each, name) for each in taken]) for name in names))
        self._reference_features = self._unit(self._references.tokens[:, 0])

    def _unit(self, features: NDArray[np.floating]) -> FloatArray:
        return _unit_rows((features.astype(np.float32) - self._mean) / self._spread)

    def _neighbour_density(self, portion: Portion) -> FloatArray:
        """Log of the tag's rate among the nearest references of other folds over its rate among all."""
        references = self._references
        cosine = self._unit(portion.tokens[:, 0]) @ self._reference_features.T
        cosine[portion.folds[:, None] == references.folds] = -np.inf
        count = min(NEIGHBOURS, cosine.shape[1])
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        votes = np.exp(np.take_along_axis(cosine, nearest, axis=1) / TEMPERATURE)
        known = references.known
        present = (references.labels & known).astype(np.float32)
        hits = np.einsum("nk,nkl->nl", votes, present[nearest])
        known_count = np.einsum("nk,nkl->nl", votes, known[nearest].astype(np.float32))
        rate = (present.sum(axis=0) + 0.5) / (known.sum(axis=0) + 1)
        share = (count * hits / np.maximum(known_count, 1e-9) + PRIOR_COUNT * rate) / (count + PRIOR_COUNT)
        return np.asarray(np.log(share / rate), dtype=np.float32)

    def _reduced(self, regions: NDArray[np.floating]) -> FloatArray:
        """Regions (n, T - 1, D) in principal components of regions, whitened, of length 1: (n, T - 1, W)."""
        return _unit_rows((regions.astype(np.float32) - self._region_mean) @ self._components)

    def _fit_clusters(self) -> None:
        """K-means of the best regions of labelled references, for each tag without each fold: (F, L, C, W)."""
        from sklearn.cluster import KMeans

        references = self._references
        tokens = references.tokens[:, 1:] if references.tokens.shape[1] > 1 else references.tokens
        some = tokens.reshape(-1, tokens.shape[2])[:: max(1, tokens.shape[0] * tokens.shape[1] // 20_000)]
        some = some.astype(np.float32)
        self._region_mean = some.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((some - self._region_mean).T))
        self._components = (vectors / np.sqrt(np.maximum(values, 0) + 1e-3))[:, -CLUSTER_WIDTH:].astype(np.float32)
        reduced = np.concatenate([self._reduced(tokens[at : at + 256]) for at in range(0, len(tokens), 256)])
        shown = references.labels & references.known
        self._centres = np.zeros((FOLDS, shown.shape[1], CLUSTERS, reduced.shape[2]), dtype=np.float32)
        for fold in range(FOLDS):
            others = np.flatnonzero(references.folds != fold)
            best = np.empty((len(others), shown.shape[1]), dtype=np.int64)
            for start in range(0, len(others), 256):
                some = references.tokens[others[start : start + 256]]
                best[start : start + 256] = self._ridge_scores(some, np.full(len(some), fold))[1].argmax(axis=1)
            for tag, column in enumerate(shown[others].T):
                rows = np.flatnonzero(column)
                if len(rows) < CLUSTERS:
                    continue
                centres = KMeans(CLUSTERS, n_init=1, random_state=0).fit(reduced[others[rows], best[rows, tag]])
                self._centres[fold, tag] = _unit_rows(centres.cluster_centers_)


def _unit_rows(rows: NDArray[np.floating]) -> FloatArray:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-6), dtype=np.float32)
