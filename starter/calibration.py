"""Platt scaling with a pooled prior, from out-of-fold logits.

One curve for all tags (a global slope and offset), then per tag a shift towards its own data: the fewer photos showed a
tag, the closer it stays to the global curve. Slopes are always above 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError

FloatArray = NDArray[np.float64]

OFFSET_WEIGHT = 3.0
"""How strongly a tag's own offset is held to the global one, in units of (information of) photos."""
SLOPE_WEIGHT = 10.0
"""The same for the logarithm of its slope."""
SMALLEST_SLOPE = 0.2
"""Relative to the global slope."""


@dataclass(frozen=True)
class Curve:
    """score = sigmoid(slope * logit + offset)."""

    slope: float
    offset: float

    def scores(self, logits: FloatArray) -> FloatArray:
        """Logits to probabilities."""
        result: FloatArray = 1 / (1 + np.exp(-np.clip(self.slope * logits + self.offset, -60, 60)))
        return result


def fit_logistic(
    inputs: FloatArray, labels: NDArray[np.bool_], weights: FloatArray | None = None, decay: float = 1.0
) -> FloatArray:
    """Weighted logistic regression with a small quadratic penalty.

    Args:
        inputs: (k, n), a row of ones among them where a constant is wanted.
        labels: (n,).
        weights: (n,) of the pairs; None: 1 each.
        decay: strength of the penalty.

    Returns:
        (k,).

    Raises:
        InputError: labels of one kind only.
    """
    if labels.all() or not labels.any():
        raise InputError("Calibration needs tags that are right on some photos and wrong on others: check the labels.")
    weights = np.ones(len(labels)) if weights is None else weights
    solution = np.zeros(len(inputs))
    for _ in range(50):
        score = 1 / (1 + np.exp(-np.clip(solution @ inputs, -40, 40)))
        gradient = inputs @ (weights * (score - labels)) + decay * solution
        curvature = (inputs * (weights * score * (1 - score))) @ inputs.T + decay * np.eye(len(inputs))
        step = np.linalg.solve(curvature, gradient)
        solution -= np.clip(step, -3, 3)
        if np.abs(step).max() < 1e-7:
            break
    return solution


def fit_curve(logits: FloatArray, labels: NDArray[np.bool_], start: Curve | None = None, steps: int = 50) -> Curve:
    """Maximum likelihood over pairs, slope kept above 0.

    Args:
        logits: (n,).
        labels: (n,), with at least one of each kind.
        start: where the search begins.
        steps: of the search, at most.
    """
    start = start or Curve(1.0, 0.0)
    log_slope, offset, _ = _newton(logits, labels, np.log(start.slope), start.offset, 0.0, 0.0, steps)
    return Curve(float(np.exp(log_slope)), float(offset))


def fit_tag_curve(
    logits: FloatArray, labels: NDArray[np.bool_], shared: Curve,
    offset_weight: float = OFFSET_WEIGHT, slope_weight: float = SLOPE_WEIGHT,
) -> Curve:  # fmt: skip
    """A tag's own curve, held to the shared one (Gaussian priors on log slope and offset)."""
    if len(logits) == 0:
        return shared
    centre = np.log(shared.slope), shared.offset
    weights = slope_weight, offset_weight
    log_slope, offset, good = _newton(logits, labels, *centre, *weights, 50)
    if not good:
        return shared
    log_slope = max(log_slope, centre[0] + np.log(SMALLEST_SLOPE))
    return Curve(float(np.exp(log_slope)), float(offset))


def _newton(
    logits: FloatArray, labels: NDArray[np.bool_], log_slope: float, offset: float,
    slope_weight: float, offset_weight: float, steps: int,
) -> tuple[float, float, bool]:  # fmt: skip
    """Damped Gauss-Newton on the penalised log-likelihood over (log slope, offset)."""
    centre = np.array([log_slope, offset])
    weights = np.array([slope_weight, offset_weight])
    point, damping = centre.copy(), 1e-3
    target = labels.astype(np.float64)

    def cost(at: FloatArray) -> float:
        raised = np.exp(at[0]) * logits + at[1]
        return float((np.logaddexp(0, raised) - target * raised).sum() + 0.5 * (weights * (at - centre) ** 2).sum())

    current = cost(point)
    for _ in range(steps):
        raised = np.exp(point[0]) * logits + point[1]
        score = 1 / (1 + np.exp(-np.clip(raised, -60, 60)))
        directions = np.stack([np.exp(point[0]) * logits, np.ones_like(logits)])
        gradient = directions @ (score - target) + weights * (point - centre)
        curvature = (directions * (score * (1 - score))) @ directions.T + np.diag(weights)
        step = np.linalg.solve(curvature + damping * np.eye(2), gradient)
        step = np.clip(step, -1.5, 1.5)
        tried = cost(point - step)
        if tried <= current:
            point, damping = point - step, damping / 3
            if current - tried < 1e-9 * max(1.0, abs(current)):
                break
            current = tried
        else:
            damping = damping * 10 + 1e-6
    return float(point[0]), float(point[1]), bool(np.isfinite(point).all())
