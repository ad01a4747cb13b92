"""Model selection: trainers compete on cross-validated mAP, the winner becomes the candidate.

Nothing here sees the gate's images. Each recipe says what it would make of images that it was not fitted on: that is
what it is compared by, and what its probabilities and thresholds are fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.calibration import sigmoid
from ram_backend.models.delta import Delta
from ram_backend.training.calibration import (
    PooledPrior,
    TagCalibrations,
    fit_pooled_prior,
    fit_tag_calibrations,
    fit_thresholds,
    pair_weights,
)
from ram_backend.training.ridge import (
    KernelEigen,
    Ridge,
    residualise,
    shared_targets,
    sharing_matrix,
    standardised_targets,
)

FloatArray = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Told of a stage's name, the step it is at and the number of steps."""

RIDGE_ALPHAS = (2.0, 6.0, 20.0, 60.0, 150.0)
"""Ridge penalties that compete."""
FIGURE_TAGS = 500
"""Most tags that trainers are compared on, those with the most positives: ranking thousands takes minutes."""
MIN_MAP_GAIN = 0.005
"""mAP by which a later recipe has to be better than an earlier, simpler one; smaller differences are noise."""


@dataclass(frozen=True)
class FitResult:
    """What one recipe makes of the corrections.

    Attributes:
        delta: all tags of the training set, in its order.
        log_odds: (N, L) calibrated log-odds under the recipe, each row by a model that was not fitted on that image.
        judged: (N,) bool, rows of which that is true; the others are not looked at.
        params: what it settled, JSON.
        files: what it needs besides the delta, by file name (a tuned head). Where there are any, the delta's z is not
            the bundle's log-odds but those of the network with these files.
    """

    delta: Delta
    log_odds: FloatArray
    judged: NDArray[np.bool_]
    params: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Trainer(Protocol):
    """A way of learning from corrections."""

    @property
    def name(self) -> str:
        """Stands in a version's lineage."""

    def fit(
        self, training_set: TrainingSet, groups: NDArray[np.int64], seed: int, progress: Progress | None
    ) -> FitResult | None:
        """Learns from all of the training set; None: nothing came out of it.

        Args:
            training_set: N images, N at least 1.
            groups: (N,) near-duplicates have the same number: none of them says anything about another.
            seed: equal seeds give equal proposals.
            progress: see `Progress`.
        """


@dataclass(frozen=True)
class Candidate:
    """What training proposes to serve.

    Attributes:
        recipe: name of the recipe that won.
        params: its settings, JSON.
        delta: all tags of the training set, in its order; tags that nobody said anything about are left as they are.
        files: see `FitResult`; empty for the ridge.
        cross_validated: per recipe that competed "mAP", and "base_mAP" and "incumbent_mAP" of the same images. The
            incumbent may have been fitted on some of them, so that its figure is no evidence; the gate's is.
    """

    recipe: str
    params: dict[str, Any]
    delta: Delta
    files: dict[str, bytes] = field(default_factory=dict)
    cross_validated: dict[str, dict[str, float]] = field(default_factory=dict)

    def logits(self, z: FloatArray, features: FloatArray) -> FloatArray:
        """Calibrated log-odds (N, L) of images by their z (N, L), see `FitResult.files`, and their features (N, F)."""
        return self.delta.log_odds(z, features)


@dataclass(frozen=True)
class RidgeTrainer:
    """Ridge regression per tag, weighed against the bundle by hierarchical Platt scaling, see `ridge`, `calibration`.

    Ridge strength, both scales, and whether tags of similar meaning share what they learn, are settled on scores of
    images that were left out.

    Attributes:
        strengths: ridge penalties to choose from.
    """

    strengths: tuple[float, ...] = RIDGE_ALPHAS
    name: str = "residual"

    def fit(
        self, training_set: TrainingSet, groups: NDArray[np.int64], seed: int, progress: Progress | None
    ) -> FitResult:
        """As `Trainer` says; nothing here is random."""
        counts = pair_weights(training_set.labels, training_set.weights)
        targets = standardised_targets(training_set.labels, training_set.weights)
        learned = (targets != 0).any(axis=0)
        steps = len(self.strengths) + 2

        def report(step: int) -> None:
            if progress is not None:
                progress(self.name, step, steps)

        report(0)
        spectrum = KernelEigen.of(training_set.features)
        tried: list[_Trial] = []
        for place, strength in enumerate(self.strengths if learned.any() else self.strengths[-1:]):
            ridge = spectrum.ridge(targets, groups, strength)
            tried.append(_trial(training_set, counts, ridge, learned, {"strength": strength, "sharing": False}))
            report(place + 1)
        best = max(tried, key=_likelihood)
        if training_set.embeddings is not None and learned.sum() > 1:
            positives = (training_set.labels & training_set.known).sum(axis=0) * learned
            beyond = residualise(targets, training_set.base, training_set.weights)
            mixed = shared_targets(targets, beyond, sharing_matrix(training_set.embeddings, positives))
            ridge = spectrum.ridge(mixed, groups, best.params["strength"])
            lending = _trial(training_set, counts, ridge, learned, {**best.params, "sharing": True})
            best = max((best, lending), key=_likelihood)
        mixture = fit_tag_calibrations(training_set.base, best.ridge.left_out, training_set.labels, counts, best.common)
        log_odds = mixture.log_odds(training_set.base, best.ridge.left_out)
        thresholds = fit_thresholds(sigmoid(log_odds), training_set.labels, counts, training_set.base_thresholds)
        report(steps)
        return FitResult(
            delta=_delta(training_set, mixture, best.ridge, thresholds),
            log_odds=log_odds.astype(np.float32),
            judged=np.ones(len(training_set), dtype=np.bool_),
            params=best.params,
        )


def fit_candidate(
    training_set: TrainingSet,
    groups: NDArray[np.int64],
    recipes: Sequence[Trainer] = (RidgeTrainer(),),
    seed: int = 0,
    progress: Progress | None = None,
) -> Candidate:
    """Lets recipes compete.

    Args:
        training_set: N images that may be fitted, N at least 1.
        groups: (N,) near-duplicates have the same number.
        recipes: simplest first.
        seed: equal seeds give equal candidates.
        progress: see `Progress`.

    Returns:
        The best by mean average precision on images that it was not fitted on, compared on the same images; a later
        recipe has to be better by more than `MIN_MAP_GAIN`.

    Raises:
        InputError: no training_set, no recipes, or none that proposed anything.
    """
    if len(training_set) == 0 or len(groups) != len(training_set):
        raise InputError(
            f"{len(training_set)} images and {len(groups)} groups are nothing to learn from: correct some."
        )
    proposals = {
        recipe.name: proposal
        for recipe in recipes
        if (proposal := recipe.fit(training_set, groups, seed, progress)) is not None
    }
    if not proposals:
        raise InputError(f"None of the recipes ({', '.join(recipe.name for recipe in recipes)}) made a proposal.")
    rows = np.logical_and.reduce([proposal.judged for proposal in proposals.values()])
    if not rows.any():
        raise InputError(f"The recipes {', '.join(proposals)} have no images in common that they could be compared on.")
    figures = {name: _figures(training_set, proposal.log_odds, rows) for name, proposal in proposals.items()}
    winner = next(iter(proposals))
    for name in proposals:
        if figures[name].get("mAP", 0) > figures[winner].get("mAP", 0) + MIN_MAP_GAIN:
            winner = name
    best = proposals[winner]
    return Candidate(winner, best.params, best.delta, best.files, figures)


@dataclass(frozen=True)
class _Trial:
    ridge: Ridge
    common: PooledPrior | None
    params: dict[str, Any]


def _trial(
    training_set: TrainingSet,
    counts: NDArray[np.float64],
    ridge: Ridge,
    learned: NDArray[np.bool_],
    params: dict[str, Any],
) -> _Trial:
    """Weighs a ridge, brought to a mean square of 1, against the bundle."""
    size = float(np.sqrt(np.mean(ridge.left_out[:, learned] ** 2))) if learned.any() else 0.0
    ridge = ridge.scaled(np.array(1 / size if size > 1e-9 else 0.0))
    return _Trial(ridge, fit_pooled_prior(training_set.base, ridge.left_out, training_set.labels, counts), params)


def _likelihood(trial: _Trial) -> float:
    return 0.0 if trial.common is None else trial.common.likelihood


def _delta(training_set: TrainingSet, mixture: TagCalibrations, ridge: Ridge, thresholds: FloatArray) -> Delta:
    learned = ridge.scaled(mixture.residual_scale)
    return Delta(
        tags=training_set.tags,
        base_scale=mixture.base_scale.astype(np.float32),
        weight=learned.weight.astype(np.float32),
        bias=(learned.bias + mixture.offset).astype(np.float32),
        thresholds=thresholds,
    )


def _figures(training_set: TrainingSet, log_odds: FloatArray, rows: NDArray[np.bool_]) -> dict[str, float]:
    """Figures of one recipe; a number that these images can't give is left out."""
    labels, known = training_set.labels[rows], training_set.known[rows]
    tags = np.sort(np.argsort(-(labels & known).sum(axis=0), kind="stable")[:FIGURE_TAGS])
    labels, known = labels[:, tags], known[:, tags]
    scores = {"mAP": log_odds, "base_mAP": training_set.base, "incumbent_mAP": training_set.incumbent}
    figures: dict[str, float] = {}
    for name, values in scores.items():
        same = name == "incumbent_mAP" and training_set.incumbent is training_set.base
        figures[name] = (
            figures["base_mAP"]
            if same
            else mean_average_precision(values[rows][:, tags], labels, known, min_positives=1)
        )
    return {name: value for name, value in figures.items() if np.isfinite(value)}
