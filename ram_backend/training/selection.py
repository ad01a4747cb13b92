"""Model selection: trainers compete on cross-fitted edits per photo.

Each trainer is fitted on all corrections, and once more without each fold.
Trainers are compared, and judged by the gate, on the folds left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.statistics import compare_edits
from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.calibration import NEUTRAL
from ram_backend.models.delta import Delta
from ram_backend.training.calibration import (
    fit_common_curve,
    fit_offsets,
    fit_pooled_prior,
    fit_tag_calibrations,
    pair_weights,
)
from ram_backend.training.ridge import (
    KernelEigen,
    Ridge,
    residualise,
    smoothed_targets,
    smoothing_matrix,
    standardised_targets,
)

FloatArray = NDArray[np.float32]
Numbers = NDArray[np.floating]
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, its step and the number of steps."""


RIDGE_ALPHAS = (2.0, 6.0, 20.0, 60.0, 150.0)
"""Ridge penalties that compete."""


@dataclass(frozen=True)
class Candidate:
    """What a trainer makes of the corrections, to be judged and served.

    Attributes:
        delta: all tags of the training set, in its order; tags that nobody said
            anything about are left as they are.
        params: what the trainer settled, JSON.
        refit_trainer: to be fitted without each fold; None: `log_odds` and
            `evaluated` are there already.
        log_odds: (N, L) calibrated log-odds of the training set, each row by a
            fit that didn't see its fold.
        evaluated: (N,) bool, rows of which that is true.
        files: what it needs besides the delta, by file name (a tuned head).
            Where there are any, the delta's z is not the bundle's log-odds but
            those of the network with these files.
        folds: by fold, the delta that was fitted without it; empty with a tuned
            head.
        cross_validated: per trainer that competed the "edits" per photo.
    """

    delta: Delta
    params: dict[str, Any] = field(default_factory=dict)
    refit_trainer: Trainer | None = None
    log_odds: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    evaluated: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_), repr=False)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    trainer: str = ""
    folds: dict[int, Delta] = field(default_factory=dict, repr=False)
    cross_validated: dict[str, dict[str, float]] = field(default_factory=dict)


class Trainer(Protocol):
    """A way of learning from corrections."""

    @property
    def name(self) -> str:
        """Stands in a version's lineage."""

    def fit(self, training_set: TrainingSet, seed: int, progress: Progress) -> Candidate | None:
        """Learns from N >= 1 images, the same by equal seeds; None: no proposal."""


@dataclass(frozen=True)
class RecalibrationTrainer:
    """Moves tags whose scores are clearly too high or too low, see `fit_offsets`."""

    name: str = "recalibration"

    def fit(self, training_set: TrainingSet, seed: int, progress: Progress) -> Candidate:
        """As `Trainer` says; nothing here is random."""
        progress(self.name, 0, 1)
        pair_weight = pair_weights(training_set.labels, training_set.weights)
        slope, offset = _base_calibration(training_set, pair_weight)
        moved = offset + fit_offsets(slope * training_set.base + offset, training_set.labels, pair_weight)
        nothing = np.zeros((len(offset), training_set.features.shape[1]), dtype=np.float32)
        return Candidate(_delta(training_set, slope, nothing, moved), refit_trainer=self)


@dataclass(frozen=True)
class RidgeTrainer:
    """Ridge regression per tag, beside the bundle by hierarchical Platt scaling.

    Ridge strength, scales, and whether weights are smoothed over tags of
    similar meaning, are chosen on leave-group-out scores; where their common
    scale is not above 0, there is no proposal.

    Attributes:
        strengths: ridge penalties to choose from.
        smoothing: whether weights are smoothed over tags; None: chosen.
    """

    strengths: tuple[float, ...] = RIDGE_ALPHAS
    smoothing: bool | None = None
    name: str = "ridge"

    def fit(self, training_set: TrainingSet, seed: int, progress: Progress) -> Candidate | None:
        """As `Trainer` says; nothing here is random."""
        pair_weight = pair_weights(training_set.labels, training_set.weights)
        slope, offset = _base_calibration(training_set, pair_weight)
        bundle = training_set
        training_set = replace(training_set, base=slope * training_set.base + offset)
        targets = standardised_targets(training_set.labels, training_set.weights)
        learned = (targets != 0).any(axis=0)
        steps = len(self.strengths) + 2
        progress(self.name, 0, steps)

        spectrum = KernelEigen.of(training_set.features)
        tried: dict[float, tuple[float, Ridge, NDArray[np.float64] | None]] = {}
        for strength in self.strengths if learned.any() else self.strengths[-1:]:
            ridge = spectrum.ridge(targets, training_set.groups, strength)
            tried[strength] = _weighed(training_set, pair_weight, ridge, learned)
            progress(self.name, len(tried), steps)
        strength = max(tried, key=lambda each: tried[each][0])
        likelihood, ridge, common = tried[strength]
        sharing = False
        if self.smoothing is not False and training_set.embeddings is not None and learned.sum() > 1:
            positives = (training_set.labels & training_set.known).sum(axis=0) * learned
            residual_targets = residualise(targets, training_set.base, training_set.weights)
            smoothing = smoothing_matrix(training_set.embeddings, positives)
            mixed = smoothed_targets(targets, residual_targets, smoothing)
            mixed_ridge = spectrum.ridge(mixed, training_set.groups, strength)
            smoothed = _weighed(training_set, pair_weight, mixed_ridge, learned)
            if self.smoothing or smoothed[0] > likelihood:
                _, ridge, common = smoothed
                sharing = True
        if self.smoothing is None and (common is None or common[0] <= 0):
            return None
        scores = ridge.out_of_group_scores
        scale, shift = fit_tag_calibrations(training_set.base, scores, training_set.labels, pair_weight, common)
        learned_ridge = ridge.scaled(scale)
        progress(self.name, steps, steps)
        return Candidate(
            delta=_delta(bundle, slope, learned_ridge.weight, learned_ridge.bias + shift + offset),
            params={"strength": strength, "sharing": sharing},
            refit_trainer=replace(self, strengths=(strength,), smoothing=sharing),
        )


def fit_candidate(
    training_set: TrainingSet,
    trainers: Sequence[Trainer] = (RecalibrationTrainer(), RidgeTrainer()),
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Candidate:
    """The candidate with the fewest edits per photo, compared on the same images.

    Trainers come simplest first, and that one always makes a proposal. A later
    one has to be better by more than the standard error of the difference.
    """
    candidates = [
        _cross_fitted(training_set, trainer, found, seed)
        for trainer in trainers
        if (found := trainer.fit(training_set, seed, progress)) is not None
    ]
    rows = np.logical_and.reduce([candidate.evaluated for candidate in candidates])
    some = training_set.take(rows)
    edits = [some.edits(candidate.log_odds[rows], some.thresholds) for candidate in candidates]
    best = 0
    for place in range(1, len(candidates)):
        change = compare_edits(edits[best], edits[place], some.groups, seed)
        if change.before - change.after > change.standard_error:
            best = place
    means = (float(found.mean()) for found in edits)
    figures = {each.trainer: {"edits": mean} for each, mean in zip(candidates, means, strict=True)}
    return replace(candidates[best], cross_validated=figures)


def _cross_fitted(training_set: TrainingSet, trainer: Trainer, found: Candidate, seed: int) -> Candidate:
    if found.refit_trainer is None:
        return replace(found, trainer=trainer.name)
    folds, log_odds, deltas = training_set.folds, training_set.base.copy(), {}
    for fold in np.unique(folds).tolist():
        inside, outside = folds != fold, folds == fold
        if not inside.any():
            continue
        without = found.refit_trainer.fit(training_set.take(inside), seed, lambda *_: None)
        if without is not None:
            deltas[fold] = without.delta
            rest = training_set.take(outside)
            log_odds[outside] = without.delta.log_odds(rest.base, rest.features)
    everywhere = np.ones(len(training_set), dtype=np.bool_)
    return replace(found, trainer=trainer.name, log_odds=log_odds, evaluated=everywhere, folds=deltas)


def _weighed(
    training_set: TrainingSet, pair_weight: NDArray[np.float64], ridge: Ridge, learned: NDArray[np.bool_]
) -> tuple[float, Ridge, NDArray[np.float64] | None]:
    """Likelihood of a ridge of mean square 1 beside the bundle, ridge, coefficients."""
    size = float(np.sqrt(np.mean(ridge.out_of_group_scores[:, learned] ** 2))) if learned.any() else 0.0
    ridge = ridge.scaled(np.array(1 / size if size > 1e-9 else 0.0))
    scores = ridge.out_of_group_scores
    common, likelihood = fit_pooled_prior(training_set.base, scores, training_set.labels, pair_weight)
    return likelihood, ridge, common


def _base_calibration(training_set: TrainingSet, pair_weight: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Slopes and offsets (L,) that calibrate log-odds; (1, 0) without need."""
    slope = np.ones(len(training_set.tags), np.float32)
    offset = np.zeros(len(training_set.tags), np.float32)
    if training_set.calibrated:
        return slope, offset
    at = np.clip(training_set.base_thresholds, 0.01, 0.99)
    limit = np.log(at / (1 - at))
    common, shift = fit_common_curve(training_set.base - limit, training_set.labels, pair_weight)
    known = (pair_weight > 0).any(axis=0)
    slope[known], offset[known] = common, (shift - common * limit)[known]
    return slope, offset


def _delta(training_set: TrainingSet, scale: Numbers, weight: Numbers, bias: Numbers) -> Delta:
    """A delta, with `NEUTRAL` thresholds for the tags that somebody spoke of."""
    known = training_set.known.any(axis=0)
    scale, weight, bias = (each.astype(np.float32) for each in (scale, weight, bias))
    return Delta(training_set.tags, scale, weight, bias, np.where(known, NEUTRAL, training_set.base_thresholds))
