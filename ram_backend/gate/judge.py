"""Acceptance gate: sign-flip test of edits, association, ranking, off-target check.

One candidate is compared with what is served now on all corrected images, each
scored by a fit that saw neither it nor its near-duplicates. It passes only with
evidence of fewer edits, and without loss of ranking or of tags outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.statistics import EditChange, compare_edits, permutation_test, ranking_change
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import calibration_error, mean_average_precision
from ram_backend.models.calibration import sigmoid

SIGNIFICANCE_LEVEL = 0.01
"""Largest p-value of the sign-flip test at which a candidate is accepted.

In fourteen rounds with nothing to win, 3 % of projects get a chance winner.
"""
UNRELATED_FROM = 0.002
"""Share of permutations ranked as well as the labels, above which these are unrelated.

Strict: a candidate that ticks less has fewer edits on random labels.
"""
FEWEST_IMAGES, FEWEST_POSITIVES = 20, 10
"""Groups of near-duplicates, and right pairs, that are enough to judge by."""
MAX_SAMPLE_RATIO = 4.0
"""`needs_data` where up to this many times as many images would prove the gain."""
MIN_EFFECT = 0.03
"""Share of the edits below which a gain isn't worth waiting for."""
MOST_LISTED = 8
"""Tags of which the verdict counts vanished wrong and new right ticks."""
LARGEST_RANKING_LOSS = 0.005
"""mAP that may be lost beyond the standard error (one-sided 95 %)."""
LARGEST_MOVE = 0.15
"""Mean absolute difference of the scores, divided by the bundle's mean score.

That mean is .01 to .03: an absolute limit would differ from bundle to bundle.
"""
LEAST_AGREEMENT = 0.97
"""mAP of the candidate's scores against the bundle's decisions."""

UNRELATED = "labels look unrelated to the images"
"""Part of the reason where they do."""


@dataclass(frozen=True)
class OffTargetShift:
    """How far a candidate left the bundle.

    Attributes:
        move: mean absolute difference of the scores, in [0, 1]; 0 where there
            is nothing to compare, inf where the candidate's are no
            probabilities.
        relative_move: the same, divided by the bundle's mean score; at least 0.
        agreement: mAP against the bundle's decisions, in (0, 1]; nan where it
            decides for no tag.
    """

    move: float
    relative_move: float
    agreement: float

    @property
    def harmless(self) -> bool:
        """Both limits are kept; an agreement that can't be measured doesn't count."""
        return self.relative_move <= LARGEST_MOVE and not self.agreement < LEAST_AGREEMENT


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on a candidate.

    Attributes:
        outcome: `accept`, `reject` or `needs_data`.
        reason: one sentence with figures, for people.
        figures: by name; see `judge_candidate`. What could not be measured is
            absent: all are finite.
    """

    outcome: Literal["accept", "reject", "needs_data"]
    reason: str
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        finite = {name: float(value) for name, value in self.figures.items() if math.isfinite(value)}
        object.__setattr__(self, "figures", finite)

    @property
    def accepted(self) -> bool:
        """The candidate may be served."""
        return self.outcome == "accept"


def refuse_before_fitting(training_set: TrainingSet, seed: int = 0) -> Verdict | None:
    """What is clear before a fit: too little data, or unrelated labels.

    Args:
        training_set: all corrections.
        seed: of the permutations.

    Returns:
        `needs_data` or `reject`; None where fitting is worth while.
    """
    stated = training_set.stated
    right, wrong = training_set.labels & stated, ~training_set.labels & stated
    images = len(np.unique(training_set.groups[stated.any(axis=1)]))
    positives = int(right[:, right.any(axis=0) & wrong.any(axis=0)].sum())
    figures: dict[str, float] = {"images": images, "positives": positives}
    missing = float(max(FEWEST_IMAGES - images, 0))
    if positives < FEWEST_POSITIVES:
        missing = max(missing, (FEWEST_POSITIVES - positives) * max(images, 1) / max(positives, 1))
    if missing:
        more = math.ceil(missing)
        reason = (
            f"Too little to judge by: {_count(images, 'image')} with {_count(positives, 'right tag')}, and"
            f" {FEWEST_IMAGES} with {FEWEST_POSITIVES} are needed; {_count(more, 'more corrected image')} will do."
        )
        if images >= FEWEST_IMAGES and not positives:
            reason = (
                "Nothing to judge by yet: no tag is right on some images and wrong on others;"
                f" {FEWEST_POSITIVES} right ones of such tags are needed."
            )
        return Verdict("needs_data", reason, figures | {"more_corrections": more})
    labels, weights = training_set.labels, training_set.weights * stated
    figures |= permutation_test(training_set.base, labels, weights, training_set.groups, seed)
    if figures["p_unrelated"] <= UNRELATED_FROM:
        return None
    return Verdict("reject", _unrelated(figures), figures)


def judge_candidate(
    training_set: TrainingSet,
    candidate: NDArray[np.floating],
    *,
    evaluated: NDArray[np.bool_] | None = None,
    at_random: NDArray[np.bool_] | None = None,
    shift: OffTargetShift | None = None,
    cross_validated: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compares a candidate with the incumbent on images that neither was fitted on.

    Args:
        training_set: all corrections; its `incumbent` is read out of fold where
            the served version was fitted on an image.
        candidate: (N, L) cross-fitted log-odds, ticked above the training set's
            `thresholds`.
        evaluated: (N,) rows of which that is so; None: all.
        at_random: (N,) rows that no score chose; None: these have no figures.
        shift: of the scores of tags outside the subset; None: the candidate
            can't change them.
        cross_validated: figures of the trainers that competed, kept among the
            verdict's; they decide nothing.
        seed: of the sign flips.

    Returns:
        The verdict. Figures: `images` (groups), `edits_incumbent`,
        `edits_candidate` (per photo, weighted by their costs), `edits_change`,
        `change_low`, `change_high` (95 % interval, as shares), `p_value`,
        `needed_p_value`, `map_change` (where the edits are fewer), of the
        `MOST_LISTED` tags that change most the numbers of wrong ticks that
        vanish, `vanished.TAG`, and of right ones that are new, `found.TAG`,
        on rows at random alone `random.images` (rows), `random.incumbent` and
        `random.candidate` (edits), `random.calibration_error` (candidate's),
        with a shift `guard_move`, `guard_relative_move`, `guard_agreement`, and
        with the outcome `needs_data` `more_corrections`.
    """
    spoken = training_set.known.any(axis=1)
    rows = np.flatnonzero(spoken if evaluated is None else spoken & evaluated)
    some = training_set.take(rows)
    folds, candidate = training_set.folds[rows], candidate[rows]
    images = len(np.unique(some.groups))
    figures: dict[str, float] = {"images": images, "needed_p_value": SIGNIFICANCE_LEVEL}
    for trainer, found in (cross_validated or {}).items():
        figures |= {f"cross_validated.{trainer}.{name}": value for name, value in found.items()}
    if shift is not None:
        figures |= {"guard_move": shift.move, "guard_relative_move": shift.relative_move}
        figures["guard_agreement"] = shift.agreement
    if not np.isfinite(candidate).all():
        return Verdict("reject", "The candidate's scores are not finite on some images: training diverged.", figures)
    before = some.edits(some.incumbent, some.incumbent_thresholds)
    after = some.edits(candidate, some.thresholds)
    change = compare_edits(before, after, some.groups, seed)
    low, high = change.interval
    figures |= {"edits_incumbent": change.before, "edits_candidate": change.after, "edits_change": change.change}
    figures |= {"change_low": low, "change_high": high, "p_value": change.p_value}
    figures |= _ticks_that_change(some, candidate)
    if at_random is not None and (chosen := at_random[rows]).any():
        error = calibration_error(sigmoid(candidate[chosen]), some.labels[chosen], some.stated[chosen])
        figures |= {"random.images": chosen.sum(), "random.calibration_error": error}
        figures |= {"random.incumbent": before[chosen].mean(), "random.candidate": after[chosen].mean()}
    if shift is not None and not shift.harmless:
        return Verdict("reject", _harm(shift), figures)
    if change.p_value > SIGNIFICANCE_LEVEL:
        return _not_certain(change, figures)
    lost, error = ranking_change(some.incumbent, candidate, some.labels, some.stated, folds)
    figures["map_change"] = lost
    if lost < -LARGEST_RANKING_LOSS - NormalDist().inv_cdf(0.95) * error:
        reason = f"Fewer edits, but the ranking is worse ({lost:+.3f} mAP): {edits_sentence(change)}."
        return Verdict("reject", reason, figures)
    return Verdict("accept", f"Fewer edits: {edits_sentence(change)}.", figures)


def measure_shift(
    bundle: NDArray[np.floating], candidate: NDArray[np.floating], thresholds: NDArray[np.floating]
) -> OffTargetShift:
    """Compares scores of tags outside the subset, on project images and bundled photos.

    A tuned head changes these tags, too, and they may be asked for tomorrow.
    Nobody labelled them, so the bundle's own scores are the measure. The limits
    come from noise on the starter's log-odds on three sets of labelled photos:
    a standard deviation of .2 costs .005 to .03 of these tags' mAP, moves their
    scores by 9 to 15 % of the mean score, and leaves an agreement of .95 to .99.

    Args:
        bundle: (N, L) the bundle's calibrated scores, in [0, 1].
        candidate: (N, L) the candidate's; what is not a probability fails the
            check.
        thresholds: (L,) the bundle's, in [0, 1).
    """
    if not bundle.size:
        return OffTargetShift(0.0, 0.0, float("nan"))
    if not ((candidate >= 0) & (candidate <= 1)).all():
        return OffTargetShift(float("inf"), float("inf"), float("nan"))
    move = float(np.abs(candidate.astype(np.float64) - bundle).mean())
    mean_score = max(float(bundle.mean(dtype=np.float64)), np.finfo(np.float64).tiny)
    decided = bundle > thresholds
    evaluated = decided.any(axis=0) & ~decided.all(axis=0)
    agreement = float("nan")
    if evaluated.any():
        agreement = mean_average_precision(candidate[:, evaluated], decided[:, evaluated], min_positives=1)
    return OffTargetShift(move, move / mean_score, agreement)


def edits_sentence(change: EditChange) -> str:
    """For people: "1.47 -> 1.18 edits per photo (-20 %, 95 % interval -28 to -11 %, judged on 250 photos)"."""
    low, high = (max(-100.0, 100 * end) for end in change.interval)  # edits can't fall below 0
    return (
        f"{change.before:.2f} -> {change.after:.2f} edits per photo ({100 * change.change:+.0f} %, 95 % interval"
        f" {low:+.0f} to {high:+.0f} %, judged on {_count(change.groups, 'photo')})"
    )


def _ticks_that_change(some: TrainingSet, candidate: NDArray[np.floating]) -> dict[str, float]:
    before = some.ticked(some.incumbent, some.incumbent_thresholds)
    after = some.ticked(candidate, some.thresholds)
    changes = {
        "vanished": before & ~after & ~some.labels & some.stated,
        "found": ~before & after & some.labels & some.stated,
    }
    counts = {name: change.sum(axis=0) for name, change in changes.items()}
    return {
        f"{name}.{some.tags[tag]}": float(count[tag])
        for name, count in counts.items()
        for tag in np.argsort(-count, kind="stable")[:MOST_LISTED]
        if count[tag]
    }


def _not_certain(change: EditChange, figures: dict[str, float]) -> Verdict:
    expected = max(0.0, -change.interval[0])
    if expected <= MIN_EFFECT and change.interval[0] <= 0:
        reason = f"Nothing left to win: at most {100 * expected:.0f} % fewer edits expected; {edits_sentence(change)}."
        return Verdict("reject", reason, figures)
    saved = change.before - change.after
    needed = NormalDist().inv_cdf(1 - SIGNIFICANCE_LEVEL) * change.standard_error
    times = (needed / saved) ** 2 if saved > 0 else math.inf
    if times <= MAX_SAMPLE_RATIO:
        more = max(1, math.ceil((times - 1) * change.groups))
        sentence = (
            f"Probably fewer edits, but not certain yet: {edits_sentence(change)}; about"
            f" {_count(more, 'more corrected image')} would settle it."
        )
        return Verdict("needs_data", sentence, figures | {"more_corrections": more})
    return Verdict("reject", f"No fewer edits can be shown: {edits_sentence(change)}.", figures)


def _unrelated(figures: Mapping[str, float]) -> str:
    if math.isnan(figures["place"]):
        return f"Nothing is learned from these corrections, their {UNRELATED}: no tag is right for any of them."
    return (
        f"Nothing is learned from these corrections, their {UNRELATED}: the bundle ranks them at"
        f" {figures['place']:.3f}, where .5 is chance and 1 is perfect, and {figures['p_unrelated']:.0%} of random"
        " permutations of the labels do as well; check that the annotations belong to these images."
    )


def _harm(shift: OffTargetShift) -> str:
    if not math.isfinite(shift.move):
        return "The candidate's scores for tags outside the project are no probabilities: training diverged."
    agreement = "" if math.isnan(shift.agreement) else f" and agree with its decisions to {shift.agreement:.3f}"
    return (
        f"The candidate would change tags outside the project: their scores move by {shift.move:.4f} on average,"
        f" {shift.relative_move:.0%} of the bundle's{agreement}; the limits are {LARGEST_MOVE:.0%} and"
        f" {LEAST_AGREEMENT}."
    )


def _count(number: int, what: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
