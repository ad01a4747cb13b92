"""Probability that a label is right: logistic regression through label noise.

A pair's tag is there with probability t = sigmoid(weights . signals + slope x
logit(rate) + bias). People leave a share `missing` of the tags out, and tick
absent ones at `wrong` times the tag's rate, so that a label is on with
probability

    p = t (1 - missing) + (1 - t) wrong x rate

(class-conditional noise; Natarajan et al., Learning with Noisy Labels, 2013).
All parameters maximise the likelihood of the labels as they are. The posterior
of the tag given its label follows by Bayes' rule.

Shapes: S signals, N images in portions of n, L tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.calibration import sigmoid

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Signals = NDArray[np.floating]

EXPECTED_MISSING, EXPECTED_WRONG = 0.2, 0.2
"""Centres of the priors of both shares."""
PRIOR_STRENGTH = 0.1
"""Precision of these priors (of logits), per label that is on."""
PAIRS = 2_000_000
"""Pairs that the parameters are fitted on, about: images evenly spread."""


@dataclass(frozen=True)
class NoiseModel:
    """Fitted parameters.

    Attributes:
        mean: (S, L) of the signals.
        spread: (S, L) their standard deviation.
        rates: (L,) share of images with the tag, in (0, 1).
        weights: (S,) of standardised signals.
        bias: of all tags.
        slope: on the logit of a tag's rate.
        missing: share of tags that are left out, in (0, 1).
        wrong: ticks of absent tags, as a share of the tag's rate, in (0, 1).
    """

    mean: FloatArray
    spread: FloatArray
    rates: FloatArray
    weights: FloatArray
    bias: float
    slope: float
    missing: float
    wrong: float

    def present(self, signals: Signals, labels: BoolArray) -> FloatArray:
        """Posterior (n, L) of the tag, given signals (S, n, L) and labels (n, L)."""
        present, wrong = self.unlabelled(signals), np.minimum(self.wrong * self.rates, 0.5)
        on = np.clip(wrong + (1 - self.missing - wrong) * present, 1e-9, 1 - 1e-9)
        found: FloatArray = np.where(labels, (1 - self.missing) * present / on, self.missing * present / (1 - on))
        return found

    def unlabelled(self, signals: Signals) -> FloatArray:
        """Probability (n, L) that the tag is there, its label not looked at."""
        standard = self.standardised(signals)
        logit = np.log(self.rates / (1 - self.rates))
        return sigmoid(np.tensordot(self.weights, standard, axes=1) + self.slope * logit + self.bias)

    def standardised(self, signals: Signals) -> FloatArray:
        """Signals (S, n, L) with mean 0 and spread 1 for each tag."""
        return (signals - self.mean[:, None]) / self.spread[:, None]


def fit_noise_model(
    signals: Iterable[Signals], labels: Sequence[BoolArray], known: Sequence[BoolArray], rates: FloatArray
) -> NoiseModel:
    """Fits all parameters.

    Args:
        signals: of each portion (S, n, L); iterated over once.
        labels: of each portion (n, L).
        known: of each portion (n, L); unknown pairs say nothing.
        rates: (L,) in (0, 1).
    """
    from scipy.optimize import minimize

    step = max(1, sum(each.size for each in labels) // PAIRS)
    values = np.concatenate([each[:, ::step] for each in signals], axis=1).astype(np.float64)
    on, pairs = (np.concatenate([each[::step] for each in parts]) for parts in (labels, known))
    count = np.maximum(pairs.sum(axis=0), 1)
    mean = (values * pairs).sum(axis=1) / count
    spread = np.sqrt(((values - mean[:, None]) ** 2 * pairs).sum(axis=1) / count) + 1e-6
    constants = (
        np.broadcast_to(each, pairs.shape) for each in (np.ones(len(rates)), np.log(rates / (1 - rates)), rates)
    )
    *columns, rate = (each[pairs] for each in (*(values - mean[:, None]) / spread[:, None], *constants))
    inputs, seen, tied = np.stack(columns, axis=1), on[pairs].astype(np.float64), len(mean)
    centre = np.array([_logit(EXPECTED_MISSING), _logit(EXPECTED_WRONG)])
    strength = PRIOR_STRENGTH * seen.sum()

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        weights, (missing, share) = values[:-2], sigmoid(values[-2:])
        present = sigmoid(inputs @ weights)
        wrong = np.minimum(share * rate, 0.5)
        p = np.clip(wrong + (1 - missing - wrong) * present, 1e-9, 1 - 1e-9)
        by_p = seen / p - (1 - seen) / (1 - p)
        gradient = np.empty_like(values)
        gradient[:-2] = -(inputs.T @ (by_p * (1 - missing - wrong) * present * (1 - present)))
        gradient[-2] = (by_p * present).sum() * missing * (1 - missing)
        gradient[-1] = -(by_p * rate * (1 - present)).sum() * share * (1 - share)
        pulled = np.concatenate([values[:tied], [0, 0], strength * (values[-2:] - centre)])
        penalty = (values[:tied] ** 2).sum() + strength * ((values[-2:] - centre) ** 2).sum()
        likelihood = (seen * np.log(p) + (1 - seen) * np.log(1 - p)).sum()
        return float(penalty / 2 - likelihood), gradient + pulled

    found = minimize(loss, np.concatenate([np.full(tied, 0.5), [0.0, 1.0], centre]), jac=True, method="L-BFGS-B").x
    missing, wrong = sigmoid(found[-2:])
    return NoiseModel(
        mean, spread, rates, found[:tied], float(found[-4]), float(found[-3]), float(missing), float(wrong)
    )


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
