"""Decision on a candidate version: paired bootstrap test against the incumbent, association test, off-target check.

One candidate, chosen without looking here, is compared with what is served now on images that nothing was fitted or
chosen on. It passes only with evidence that it ranks them better: mean average precision, by paired bootstrap over
groups of look-alikes. Better thresholds or calibration alone don't count, and nothing may be harmed beside: neither
rare tags of the project nor tags outside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.folds import Split
from ram_backend.gate.off_target import LARGEST_MOVE, LEAST_AGREEMENT, OffTargetScores, OffTargetShift, measure_shift
from ram_backend.gate.statistics import AssociationTest, RankingChange, compare_rankings, permutation_test
from ram_backend.gate.training_set import TrainingSet

ACCEPTED_FROM = 0.975
"""Share of the resamples in which the candidate has to rank better. A candidate that is as good as the incumbent
reaches it in about 1 of 40 rounds. That is stricter than the usual .95, since a project is judged again and again."""
UNRELATED_FROM = 0.01
"""Labels are unrelated where more than this share of permutations is ranked as well as they are."""
RELATED_POSITIVES = 50
"""Right pairs of the gate from which on it can tell alone whether labels are related to the images: scores that rank
right images at .65, where .5 is chance, are then recognised in nine of ten cases. Below, all corrections are asked."""
FEWEST_IMAGES, FEWEST_POSITIVES = 15, 10
"""Of the gate: groups of look-alikes, and pairs that are right under tags that also have wrong ones. Below, a single
image decides; from here on the bootstrap keeps its level (measured with 12 images and 6 positives)."""
WORTH_WAITING = 4.0
"""The verdict is `needs_data` where a gate up to this many times as large would make the gain certain."""

UNRELATED = "labels look unrelated to the images"
"""Part of the reason where they do."""


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on a candidate.

    Attributes:
        outcome: `accept`, `reject` or `needs_data`.
        reason: one sentence with figures, for people.
        figures: by name; see `judge_candidate`. What could not be measured is absent: all are finite.
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


def refuse_before_fitting(training_set: TrainingSet, parts: Split, seed: int = 0) -> Verdict | None:
    """What can be said before anything is fitted: too little to judge by, or labels unrelated to the images.

    Args:
        training_set: all corrections.
        parts: its split.
        seed: of the permutations.

    Returns:
        `needs_data` or `reject`; None where fitting is worth while.
    """
    figures = {"images": _images(parts)}
    refusal = _too_little(training_set, parts, figures)
    if refusal is not None:
        return refusal
    if not _evaluable(training_set, parts.fit).any():
        reason = "No tag has both right and wrong images to learn from yet: correct more images."
        return Verdict("needs_data", reason, figures)
    association = _association(training_set, parts, seed)
    if association.p_value > UNRELATED_FROM:
        return Verdict("reject", _unrelated(association), figures | _association_figures(association))
    return None


def judge_candidate(
    training_set: TrainingSet,
    parts: Split,
    candidate: NDArray[np.floating],
    *,
    guard: OffTargetScores | None = None,
    cross_validated: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compares a candidate with the incumbent on the gate's images.

    Rankings are compared with equal weights of all known pairs. Explicit negatives exist only for tags that the
    incumbent showed, so weights would punish its false positives more than the candidate's. A bias for the incumbent
    remains: right tags that it missed, and that nobody added, count as wrong.

    Args:
        training_set: all corrections.
        parts: the split whose `fit` the candidate comes from.
        candidate: (len(parts.gate), L) log-odds of the candidate on the gate's images; only the order within a tag
            matters.
        guard: scores of tags outside the subset; None: the candidate can't change them.
        cross_validated: figures of the recipes inside the fitted images, kept among the verdict's; they decide nothing.
        seed: of resamples and permutations.

    Returns:
        The verdict. Figures: `images` (groups), `tags`, `positives`, `map_incumbent`, `map_candidate`, `map_change`,
        `change_low`, `change_high` (95 % interval), `probability` of being better (for the mAP that these are of see
        `RankingChange`), `needed_probability`, `macro_incumbent`, `macro_candidate`, `macro_change`, `place`,
        `place_by_chance`, `p_unrelated`, with a guard `guard_move`, `guard_relative_move`, `guard_agreement`, and with
        the outcome `needs_data` `more_corrections`.

    Raises:
        InputError: shapes that don't fit each other.
    """
    gate = parts.gate
    labels, known, groups = training_set.labels[gate], training_set.known[gate].astype(np.float64), parts.groups[gate]
    if candidate.shape != labels.shape:
        raise InputError(f"The gate has a candidate {candidate.shape} instead of {labels.shape}.")
    figures = {"images": _images(parts), "needed_probability": ACCEPTED_FROM}
    for recipe, found in (cross_validated or {}).items():
        figures |= {f"cross_validated.{recipe}.{name}": value for name, value in found.items()}
    shift = None if guard is None else measure_shift(guard)
    if shift is not None:
        figures |= {"guard_move": shift.move, "guard_relative_move": shift.relative_move}
        figures["guard_agreement"] = shift.agreement
    if not np.isfinite(candidate).all():
        return Verdict("reject", "The candidate's scores are not finite on some images: training diverged.", figures)
    refusal = _too_little(training_set, parts, figures)
    if refusal is not None:
        return refusal
    change = compare_rankings(training_set.incumbent[gate], candidate, labels, known, groups, seed)
    association = _association(training_set, parts, seed)
    figures |= _figures_of(change) | _association_figures(association)
    if association.p_value > UNRELATED_FROM:
        return Verdict("reject", _unrelated(association), figures)
    if shift is not None and not shift.harmless:
        return Verdict("reject", _harm(shift), figures)
    return _by_evidence(change, parts.share, figures)


def _association(training_set: TrainingSet, parts: Split, seed: int) -> AssociationTest:
    """Relation of the incumbent's scores to the labels: of all images for a bundle, of the gate's for a version.

    A version was fitted on most of the other images, and ranks whatever labels it has learned by heart. It is measured
    on them all the same where the gate has fewer than `RELATED_POSITIVES`: honest corrections would be refused by luck.
    """
    rows = np.arange(len(training_set))
    if training_set.incumbent is not training_set.base:
        positives = (training_set.labels & training_set.known)[parts.gate].sum()
        rows = parts.gate if positives >= RELATED_POSITIVES else rows
    return permutation_test(
        training_set.incumbent[rows], training_set.labels[rows], training_set.weights[rows], parts.groups[rows], seed
    )


def _images(parts: Split) -> float:
    return float(len(np.unique(parts.groups[parts.gate])))


def _too_little(training_set: TrainingSet, parts: Split, figures: dict[str, float]) -> Verdict | None:
    right = (training_set.labels & training_set.known)[parts.gate]
    images, positives = int(figures["images"]), int(right[:, _evaluable(training_set, parts.gate)].sum())
    missing = float(max(FEWEST_IMAGES - images, 0))
    if positives < FEWEST_POSITIVES:
        per_image = max(positives, 1) / max(images, 1)
        missing = max(missing, (FEWEST_POSITIVES - positives) / per_image)
    if not missing:
        return None
    more = math.ceil(missing / parts.share)
    reason = (
        f"Too little to judge by: {_count(images, 'image')} with {_count(positives, 'right tag')} kept aside for the"
        f" gate, and {FEWEST_IMAGES} with {FEWEST_POSITIVES} are needed; about {_count(more, 'more corrected image')}"
        " will do."
    )
    return Verdict("needs_data", reason, figures | {"positives": positives, "more_corrections": more})


def _evaluable(training_set: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(L,): tags that are right for some of these images, and wrong for some."""
    labels, known = training_set.labels[rows], training_set.known[rows]
    return np.logical_and((labels & known).any(axis=0), (~labels & known).any(axis=0))


def _unrelated(association: AssociationTest) -> str:
    if math.isnan(association.mean_rank):
        return f"Nothing is learned from these corrections, their {UNRELATED}: no tag is right for any of them."
    return (
        f"Nothing is learned from these corrections, their {UNRELATED}: what is served now ranks them at"
        f" {association.mean_rank:.3f}, where .5 is chance and 1 is perfect, and {association.p_value:.0%} of random"
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


def _by_evidence(change: RankingChange, share: float, figures: dict[str, float]) -> Verdict:
    images = int(figures["images"])
    found = (
        f"weighted mAP {change.after:.3f} instead of {change.before:.3f} ({change.change:+.3f}, 95 % interval"
        f" {change.low:+.3f} to {change.high:+.3f}, better in {change.probability:.1%} of the resamples) on"
        f" {_count(images, 'image')} that nothing was fitted on"
    )
    if change.probability >= ACCEPTED_FROM and change.macro_change >= 0:
        return Verdict("accept", f"The candidate ranks better: {found}.", figures)
    if change.probability >= ACCEPTED_FROM:
        sentence = (
            f"The candidate ranks frequent tags better and the others worse: {found}; with each tag counted the same"
            f" {change.macro_change:+.3f}."
        )
        return Verdict("reject", sentence, figures)
    times = _times_the_gate(change)
    if times <= WORTH_WAITING:
        more = max(1, math.ceil((times - 1) * images / share))
        sentence = (
            f"The candidate may rank better, but the gate can't tell yet: {found}, {ACCEPTED_FROM:.1%} are needed;"
            f" about {_count(more, 'more corrected image')} would settle it."
        )
        return Verdict("needs_data", sentence, figures | {"more_corrections": more})
    if not change.low and not change.high and not change.change:
        return Verdict("reject", f"The candidate ranks exactly as what is served now: {found}.", figures)
    return Verdict("reject", f"The candidate doesn't rank better: {found}, {ACCEPTED_FROM:.1%} are needed.", figures)


def _times_the_gate(change: RankingChange) -> float:
    """How many times as large the gate would have to be for the seen change to be certain enough; inf for no gain."""
    if change.change <= 0 or change.spread <= 0:
        return float("inf")
    return (NormalDist().inv_cdf(ACCEPTED_FROM) * change.spread / change.change) ** 2


def _figures_of(change: RankingChange) -> dict[str, float]:
    return {
        "tags": change.tags,
        "positives": change.positives,
        "map_incumbent": change.before,
        "map_candidate": change.after,
        "map_change": change.change,
        "change_low": change.low,
        "change_high": change.high,
        "probability": change.probability,
        "macro_incumbent": change.macro_before,
        "macro_candidate": change.macro_after,
        "macro_change": change.macro_change,
    }


def _association_figures(association: AssociationTest) -> dict[str, float]:
    return {"place": association.mean_rank, "place_by_chance": association.chance, "p_unrelated": association.p_value}


def _count(number: int, what: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
