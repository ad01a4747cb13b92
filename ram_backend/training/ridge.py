"""Multi-output ridge regression, in closed form, with leave-group-out scores.

All tags share one eigendecomposition of the images' kernel, so hundreds of tags
cost little more than one, and so does every further ridge strength. With K = U
diag(e) U' (centred, scaled features; N x N where images are few, F x F where
they are many) the ridge smoother is H = U diag(e / (e + s)) U', residuals are
(I - H) T and weights A' (I - H) T / s (Hastie, Tibshirani, Friedman: The
Elements of Statistical Learning, 3.4.1 and 5.8.2).

Leave-group-out scores follow without refitting: without a group of images G,
residuals are (I - H_GG)^-1 times the fitted ones (ESL 7.10, 5.26, for groups).

Shapes: N images, L tags, F feature width, R rank, E width of text embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SPREAD_FLOOR = 1e-3
"""Added to the spread of each feature, so that a constant one stays finite."""
RATE_FLOOR = 0.02
"""Added to a tag's standard deviation: bounds targets of very rare ones."""
RANK_FLOOR = 1e-10
"""Eigenvalues below this share of the largest one are taken as 0."""
KERNEL_BANDWIDTH = 0.3
"""Length scale of the kernel, in cosine distance of centred text embeddings."""
NOISE, PSEUDO_COUNT = 0.3, 10
"""Relative noise of a tag's weights; doubles at `PSEUDO_COUNT` positives."""


@dataclass(frozen=True)
class KernelEigen:
    """The images as all tags' regressions see them.

    Attributes:
        mean: (F,) of the features.
        scale: (F,) their standard deviation plus `SPREAD_FLOOR`.
        scaled: (N, F) centred features, divided by spread and by the root of F:
            the kernel is scaled @ scaled.T.
        vectors: (N, R) eigenvectors of the kernel, U.
        values: (R,) its eigenvalues above 0, e.
    """

    mean: FloatArray
    scale: FloatArray
    scaled: FloatArray
    vectors: FloatArray
    values: FloatArray

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> KernelEigen:
        """Of features (N, F), N at least 1."""
        wide = features.astype(np.float64)
        mean, scale = wide.mean(axis=0), wide.std(axis=0) + SPREAD_FLOOR
        scaled = (wide - mean) / (scale * np.sqrt(features.shape[1]))
        if len(scaled) <= scaled.shape[1]:
            values, vectors = np.linalg.eigh(scaled @ scaled.T)
        else:
            values, directions = np.linalg.eigh(scaled.T @ scaled)
            vectors = scaled @ directions
        positive = values > RANK_FLOOR * max(float(values[-1]), np.finfo(np.float64).tiny)
        values, vectors = values[positive], vectors[:, positive]
        if len(scaled) > scaled.shape[1]:
            vectors = vectors / np.sqrt(values)
        return cls(mean, scale, scaled, np.ascontiguousarray(vectors), values)

    def ridge(self, targets: FloatArray, groups: NDArray[np.int64], strength: float) -> Ridge:
        """Regresses all tags at once.

        Args:
            targets: (N, L), each column sums to 0.
            groups: (N,) images of one group are left out together.
            strength: penalty per image, above 0, in units of feature variance.

        Returns:
            A score per tag; those out of group are 0 where there is one group.
        """
        count, width = self.scaled.shape
        penalty = strength * count / width
        shrinkage = self.values / (self.values + penalty)
        residuals = targets - self.vectors @ (shrinkage[:, None] * (self.vectors.T @ targets))
        weight = (self.scaled.T @ (residuals / penalty)).T / (self.scale * np.sqrt(width))
        return Ridge(weight, -(weight @ self.mean), self._out_of_group_scores(targets, residuals, shrinkage, groups))

    def _out_of_group_scores(
        self, targets: FloatArray, residuals: FloatArray, shrinkage: FloatArray, groups: NDArray[np.int64]
    ) -> FloatArray:
        """(N, L) scores by fits without each image's group, around their targets' mean."""
        count = len(targets)
        _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        if len(sizes) < 2:
            return np.zeros_like(targets)
        leverage = np.einsum("nr,r,nr->n", self.vectors, shrinkage, self.vectors) + 1 / count
        loo_residuals = residuals / np.maximum(1 - leverage, 1e-6)[:, None]
        outside = -targets / (count - 1)
        for group in np.flatnonzero(sizes > 1):
            rows = np.flatnonzero(group_of == group)
            vectors = self.vectors[rows]
            rest = np.eye(len(rows)) - (vectors * shrinkage) @ vectors.T - 1 / count
            loo_residuals[rows] = np.linalg.solve(rest, residuals[rows])
            outside[rows] = -targets[rows].sum(axis=0) / (count - len(rows))
        return targets - loo_residuals - outside


@dataclass(frozen=True)
class Ridge:
    """A linear score per tag.

    Attributes:
        weight: (L, F) on plain features.
        bias: (L,); the mean score of the fitted images is 0.
        out_of_group_scores: (N, L) scores of the fitted images by models that
            didn't see their group.
    """

    weight: FloatArray
    bias: FloatArray
    out_of_group_scores: FloatArray

    def scaled(self, factor: FloatArray) -> Ridge:
        """Scores times a factor, one number or one per tag (L,)."""
        per_tag = np.broadcast_to(factor, self.bias.shape)
        return Ridge(self.weight * per_tag[:, None], self.bias * per_tag, self.out_of_group_scores * per_tag)


def standardised_targets(labels: NDArray[np.bool_], weights: NDArray[np.float32]) -> FloatArray:
    """Labels around their mean, in units of their spread; unknown pairs are imputed (0).

    Imputation shrinks the weights of tags with many unknown pairs. A label's
    weight scales its target, not its squared error: a half-believed label is a
    target half as far from the mean.

    Args:
        labels: (N, L).
        weights: (N, L) in [0, 1], how much each label is believed.

    Returns:
        (N, L), columns sum to 0; all 0 where known labels are all equal.
    """
    believed = weights.astype(np.float64)
    total, present = believed.sum(axis=0), (believed * labels).sum(axis=0)
    mean = present / np.maximum(total, 1e-12)
    rate = (present + 0.5) / (total + 1)
    targets: FloatArray = believed * (labels - mean) / (np.sqrt(rate * (1 - rate)) + RATE_FLOOR)
    targets[:, (present <= 0) | (present >= total)] = 0
    return targets


def residualise(targets: FloatArray, scores: NDArray[np.float32], weights: NDArray[np.float32]) -> FloatArray:
    """Residuals of the targets after a regression on the bundle's scores.

    Args:
        targets: (N, L) from `standardised_targets`.
        scores: (N, L) the bundle's log-odds, brought to a spread of 1 per tag.
        weights: (N, L) in [0, 1], how much each label is believed.

    Returns:
        (N, L), columns sum to 0; all 0 for a tag whose targets are.
    """
    believed = weights.astype(np.float64)
    mean = (believed * scores).sum(axis=0) / np.maximum(believed.sum(axis=0), 1e-12)
    explaining = believed * (scores - mean) * (targets != 0).any(axis=0)
    explaining /= np.sqrt((explaining**2).mean(axis=0)) + SPREAD_FLOOR
    slope = (targets * explaining).sum() / max(float((explaining**2).sum()), 1e-12)
    return targets - slope * explaining


def smoothed_targets(targets: FloatArray, residual_targets: FloatArray, smoothing: FloatArray) -> FloatArray:
    """Targets smoothed over tags by `smoothing_matrix`.

    Other tags contribute only their residual: the bundle's part is in the tag's
    own score, too, and would count twice. A ridge is linear in its targets, so
    mixing these mixes weights.

    Args:
        targets: (N, L) from `standardised_targets`.
        residual_targets: (N, L) from `residualise`.
        smoothing: (L, L) from `smoothing_matrix`.

    Returns:
        (N, L), columns sum to 0.
    """
    diagonal = np.diagonal(smoothing)
    return targets * diagonal + residual_targets @ (smoothing - np.diag(diagonal))


def smoothing_matrix(embeddings: NDArray[np.float32], positives: NDArray[np.int64]) -> FloatArray:
    """Kernel smoothing of tags' weights over their texts (Gaussian process).

    A tag's weights are noisy measurements of a function of its text, the
    noisier the fewer images showed the tag, so rare tags are smoothed and
    frequent ones hardly change (Rasmussen and Williams 2006, 2.2).

    Args:
        embeddings: (L, E) of the tags' texts, length 1.
        positives: (L,) images that show the tag; a tag with none is smoothed
            from the others alone.

    Returns:
        (L, L): column j holds the weights of all tags in tag j.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    kernel = np.exp((centred @ centred.T - 1) / KERNEL_BANDWIDTH)
    known_tags = np.flatnonzero(positives > 0)
    noise = np.diag(NOISE * (1 + PSEUDO_COUNT / positives[known_tags]))
    smoothing = np.zeros_like(kernel)
    smoothing[known_tags] = np.linalg.solve(kernel[np.ix_(known_tags, known_tags)] + noise, kernel[known_tags])
    return smoothing
