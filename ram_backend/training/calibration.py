"""Maximum a posteriori offsets per tag, and hierarchical Platt scaling of the ridge.

    log-odds = z + residual_scale * u + offset

is a logistic regression per tag whose coefficients are drawn towards common
ones (a mixed-effects model fitted by penalised likelihood; Gelman and Hill
2007, chapter 14): a frequent tag has coefficients of its own, a rare one is
shrunk to the common ones, which with few images stay near the bundle's curve.
Here z is the bundle's calibrated log-odds and u a trainer's score of images
that it was not fitted on, so that `residual_scale` is unbiased.

Shapes: N images, L tags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.calibration import sigmoid

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

START = (0.5, 0.0)
"""Common residual_scale and offset where nothing is known."""
COMMON_PRECISION = (1.0, 0.3)
"""Inverse variances of the Gaussian priors of the common coefficients."""
OWN_PRECISION = (30.0, 0.3)
"""The same for a tag's own coefficients minus the common ones."""
PAIRS_AT_ONCE = 100_000
"""Pairs, about, that the common coefficients are fitted to."""
OFFSET_SD = 0.7
"""Standard deviation of the prior of a tag's offset, in log-odds."""
CLEAR_EVIDENCE = 1.5
"""Posterior standard deviations that an offset has to exceed."""
SLOPES = (0.25, 4.0)
"""Bounds of the common slope of a bundle that was never calibrated."""

_STEPS = 60
_TOLERANCE = 1e-7
_FIXED = 1e12


def pair_weights(labels: BoolArray, weights: NDArray[np.float32]) -> FloatArray:
    """How much each pair counts when probabilities are fitted.

    Of one tag all known pairs count alike: were a "no" to count half as much as
    a "yes", scores would be twice as high as what people then tick. Their
    weight is half-way between those of the tag's positives and its negatives;
    without positives it is that of its negatives.

    Args:
        labels: (N, L).
        weights: (N, L) in [0, 1], how much each label is believed; 0: unknown.

    Returns:
        (N, L) in [0, 1]; 0 for unknown pairs.
    """
    known = weights > 0

    def mean(pairs: BoolArray) -> FloatArray:
        return np.asarray((weights * pairs).sum(axis=0) / np.maximum(pairs.sum(axis=0), 1), dtype=np.float64)

    positive, negative = known & labels, known & ~labels
    yes, no = mean(positive), mean(negative)
    yes_only, no_only = ~negative.any(axis=0), ~positive.any(axis=0)
    return np.where(no_only, no, np.where(yes_only, yes, (yes + no) / 2)) * known


def fit_pooled_prior(
    z: NDArray[np.float32], u: FloatArray, labels: BoolArray, pair_weight: FloatArray
) -> tuple[FloatArray | None, float]:
    """Fits the common coefficients that those of each tag are shrunk towards.

    Args:
        z: (N, L) the bundle's calibrated log-odds.
        u: (N, L) with a mean square of about 1; all 0 where there is nothing
            but the bundle.
        labels: (N, L).
        pair_weight: (N, L) see `pair_weights`.

    Returns:
        (2,) residual_scale and offset, None where the known labels are all
        equal: nothing can be learned; and the penalised log-likelihood of the
        pairs that they were learned from, at most 0, comparable between several
        u of the same labels.
    """
    return _fit_common(z, u, labels, pair_weight, START, COMMON_PRECISION, OWN_PRECISION)


def fit_tag_calibrations(
    z: NDArray[np.float32], u: FloatArray, labels: BoolArray, pair_weight: FloatArray, common: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Fits every tag's own coefficients; see `fit_pooled_prior`, which gives `common`.

    Returns:
        (L,) residual_scale, on u and at least 0, and (L,) offset: 0, the
        bundle's, for a tag without any known pair, and for all tags where there
        are no common ones.
    """
    tags = np.flatnonzero((pair_weight > 0).any(axis=0))
    residual_scale, offset = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    if common is None:
        return residual_scale, offset
    chunk = max(1, PAIRS_AT_ONCE // len(z))
    for start in range(0, len(tags), chunk):
        some = tags[start : start + chunk]
        _, shift, _ = _fit(z, u, labels, pair_weight, some, common, np.full(2, _FIXED), np.array(OWN_PRECISION))
        residual_scale[some] = np.maximum(common[0] + shift[:, 0], 0)
        offset[some] = common[1] + shift[:, 1]
    return residual_scale, offset


def fit_offsets(z: NDArray[np.float32], labels: BoolArray, pair_weight: FloatArray) -> FloatArray:
    """Offsets of the tags with clear evidence; others keep the bundle's calibration.

    MAP estimate per tag of sigmoid(z + offset) under a Gaussian prior of mean 0
    and standard deviation `OFFSET_SD`; an offset below `CLEAR_EVIDENCE`
    posterior standard deviations (Laplace approximation) is 0.

    Args:
        z: (N, L) calibrated log-odds.
        labels: (N, L).
        pair_weight: (N, L) see `pair_weights`.

    Returns:
        (L,).
    """
    offset = np.zeros(z.shape[1])
    precision = np.full(z.shape[1], OFFSET_SD**-2)
    for _ in range(_STEPS):
        score = sigmoid(z + offset)
        precision = (pair_weight * score * (1 - score)).sum(axis=0) + OFFSET_SD**-2
        step = ((pair_weight * (score - labels)).sum(axis=0) + offset * OFFSET_SD**-2) / precision
        offset -= np.clip(step, -1, 1)
        if np.abs(step).max(initial=0) < _TOLERANCE**0.5:
            break
    offset[np.abs(offset) * np.sqrt(precision) < CLEAR_EVIDENCE] = 0
    return offset


def fit_common_curve(margin: NDArray[np.float32], labels: BoolArray, pair_weight: FloatArray) -> tuple[float, float]:
    """Slope and offset for all tags that turn uncalibrated margins into log-odds.

    Args:
        margin: (N, L) log-odds minus those of the bundle's thresholds.
        labels: (N, L).
        pair_weight: (N, L).

    Returns:
        Slope, within `SLOPES`, and offset; (1, 0) where the known labels are
        all equal.
    """
    nothing, bundle = np.zeros(margin.shape, dtype=np.float32), (1.0, 0.0)
    precision, no_own = (10.0, COMMON_PRECISION[1]), (_FIXED, _FIXED)
    common, _ = _fit_common(nothing, margin, labels, pair_weight, bundle, precision, no_own)
    slope, offset = bundle if common is None else common.tolist()
    return float(np.clip(slope, *SLOPES)), offset


def _fit_common(
    z: NDArray[np.float32], u: FloatArray | NDArray[np.float32], labels: BoolArray, pair_weight: FloatArray,
    centre: tuple[float, float], precision: tuple[float, float], own_precision: tuple[float, float],
) -> tuple[FloatArray | None, float]:  # fmt: skip
    """Common coefficients (2,) and likelihood, from tags stratified by frequency."""
    known = pair_weight > 0
    if not (labels & known).any() or not (~labels & known).any():
        return None, 0.0
    tags = np.flatnonzero(known.any(axis=0))
    most = max(1, PAIRS_AT_ONCE // len(labels))
    if len(tags) > most:
        by_count = tags[np.argsort((labels & known).sum(axis=0)[tags], kind="stable")]
        places = np.linspace(len(by_count) - 1, 0, most).round().astype(np.int64)  # with the most frequent one
        tags = np.sort(by_count[np.unique(places)])
    gaussians = map(np.array, (centre, precision, own_precision))
    common, _, likelihood = _fit(z, u, labels, pair_weight, tags, *gaussians)
    return common, likelihood


def _fit(
    z: NDArray[np.float32], u: FloatArray | NDArray[np.float32], labels: BoolArray, pair_weight: FloatArray,
    tags: NDArray[np.int64], centre: FloatArray, precision: FloatArray, own_precision: FloatArray,
) -> tuple[FloatArray, FloatArray, float]:  # fmt: skip
    """Newton steps on common coefficients (2,) and the tags' shifts (L, 2) at once.

    The Hessian is an arrow: tags meet only through the common coefficients,
    whose system is its Schur complement.
    """
    known, x, weight = (each[:, tags].astype(np.float64) for each in (z, u, pair_weight))
    sign = np.where(labels[:, tags], 1.0, -1.0)
    common, shift = centre.copy(), np.zeros((len(tags), 2))

    def at(common: FloatArray, shift: FloatArray) -> tuple[FloatArray, float]:
        scale, offset = (common + shift).T
        right = sigmoid(sign * (known + scale * x + offset))
        loss = -float((weight * np.log(np.maximum(right, 1e-300))).sum())
        penalty = (precision * (common - centre) ** 2).sum() + (own_precision * shift**2).sum()
        return right, loss + 0.5 * float(penalty)

    right, current = at(common, shift)
    for _ in range(_STEPS):
        residual = weight * sign * (right - 1)
        curvature = weight * right * (1 - right)
        gradient = np.stack([(residual * x).sum(axis=0), residual.sum(axis=0)], axis=1)
        mixed = (curvature * x).sum(axis=0)
        second = (curvature * x * x).sum(axis=0)
        hessian = np.stack([second, mixed, mixed, curvature.sum(axis=0)], axis=1).reshape(-1, 2, 2)
        eliminated = np.linalg.solve(
            hessian + np.diag(own_precision),
            np.concatenate([hessian, (gradient + own_precision * shift)[:, :, None]], axis=2),
        )
        schur = hessian.sum(axis=0) + np.diag(precision)
        schur -= np.einsum("lpq,lqr->pr", hessian, eliminated[:, :, :2])
        rhs = gradient.sum(axis=0) + precision * (common - centre)
        rhs -= np.einsum("lpq,lq->p", hessian, eliminated[:, :, 2])
        step = np.linalg.solve(schur, rhs)
        shift_step = eliminated[:, :, 2] - np.einsum("lpq,q->lp", eliminated[:, :, :2], step)
        length = 1.0
        tried, cost = at(common - step, shift - shift_step)
        while cost > current and length > 1e-4:
            length /= 2
            tried, cost = at(common - length * step, shift - length * shift_step)
        if cost > current:
            break
        common = common - length * step
        shift = shift - length * shift_step
        right = tried
        settled = current - cost <= _TOLERANCE * max(1.0, abs(current))
        current = cost
        if settled:
            break
    return common, shift, -current
