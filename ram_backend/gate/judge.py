"""Decision on a candidate version: paired bootstrap test against the incumbent, association test, off-target check.

One candidate, chosen without looking here, is compared with what is served now on images that nothing was fitted or
chosen on. It passes only with evidence that it ranks them better: mean average precision, by paired bootstrap over
groups of look-alikes. Better thresholds or calibration alone don't count, and nothing may be harmed beside: neither
rare tags of the project nor tags outside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.folds import Split, gate_share
from ram_backend.gate.off_target import OffTargetScores, measure_shift
from ram_backend.gate.statistics import AssociationTest, RankingChange, compare_rankings, permutation_test
from ram_backend.gate.training_set import TrainingSet
from ram_backend.gate.verdict import (
    Verdict,
    count,
    message_comparison,
    message_off_target,
    message_too_little,
    message_unrelated,
)

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
"""Where a gate so many times as large would make the gain certain, the verdict is `needs_data`; beyond, `reject`."""

Floats = NDArray[np.floating]


def judge(
    *,
    tags: Sequence[str],
    labels: NDArray[np.bool_],
    weights: Floats,
    incumbent: Floats,
    candidate: Floats,
    groups: NDArray[np.int64],
    guard: OffTargetScores | None = None,
    association: AssociationTest | None = None,
    share: float | None = None,
    cross_validated: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compares a candidate with the incumbent on the gate's images.

    Args:
        tags: L texts.
        labels: (N, L) of the gate's images.
        weights: (N, L) in [0, 1]; 0: nobody said. When rankings are compared, all other pairs count alike. How much a
            "no" is believed depends on what the incumbent showed: one that was unticked is believed in full, one that
            nobody touched in part. So wrong tags of the incumbent would cost more than the candidate's. What is left
            is a bias for the incumbent: right tags that it missed, and that nobody added, count as wrong.
        incumbent: (N, L) scores or log-odds of what is served now; only the order within a tag matters.
        candidate: (N, L).
        groups: (N,) numbers of look-alikes.
        guard: scores of tags outside the subset; None: the candidate can't change them.
        association: of the incumbent with the corrections (`permutation_test`); None: measured on the gate's images.
        share: the gate's share of the corrections, to say how many more are needed; None: the usual one.
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
    shape = (len(groups), len(tags))
    for name, array in (("labels", labels), ("weights", weights), ("incumbent", incumbent), ("candidate", candidate)):
        if array.shape != shape:
            raise InputError(f"The gate has {name} {array.shape} instead of {shape}.")
    figures: dict[str, float] = {"images": float(len(np.unique(groups))), "needed_probability": ACCEPTED_FROM}
    for recipe, found in (cross_validated or {}).items():
        figures |= {f"cross_validated.{recipe}.{name}": value for name, value in found.items()}
    guarded = None if guard is None else measure_shift(guard)
    if guarded is not None:
        figures |= {
            "guard_move": guarded.move,
            "guard_relative_move": guarded.relative_move,
            "guard_agreement": guarded.agreement,
        }
    if not np.isfinite(candidate).all():
        return Verdict("reject", "The candidate's scores are not finite on some images: training diverged.", figures)
    part = gate_share(len(np.unique(groups))) if share is None else share
    refusal = _too_little(labels, weights, groups, part, figures)
    if refusal is not None:
        return refusal
    known = (weights > 0).astype(np.float64)
    change = compare_rankings(incumbent, candidate, labels, known, groups, seed)
    association = permutation_test(incumbent, labels, weights, groups, seed) if association is None else association
    figures |= _figures_of(change) | _association_figures(association)
    if association.p_value > UNRELATED_FROM:
        return Verdict("reject", message_unrelated(association), figures)
    if guarded is not None and not guarded.harmless:
        return Verdict("reject", message_off_target(guarded), figures)
    return _by_evidence(change, part, figures)


def refuse_before_fitting(material: TrainingSet, parts: Split, seed: int = 0) -> Verdict | None:
    """What can be said before anything is fitted: too little to judge by, or labels unrelated to the images.

    Args:
        material: all corrections.
        parts: its split.
        seed: of the permutations.

    Returns:
        `needs_data` or `reject`; None where fitting is worth while.
    """
    gate, fit = parts.gate, parts.fit
    figures = {"images": float(len(np.unique(parts.groups[gate])))}
    refusal = _too_little(material.labels[gate], material.weights[gate], parts.groups[gate], parts.share, figures)
    if refusal is not None:
        return refusal
    if not _evaluable(material.labels[fit], material.weights[fit]).any():
        reason = "No tag has both right and wrong images to learn from yet: correct more images."
        return Verdict("needs_data", reason, figures)
    association = _association(material, parts, seed)
    if association.p_value > UNRELATED_FROM:
        return Verdict("reject", message_unrelated(association), figures | _association_figures(association))
    return None


def judge_candidate(
    material: TrainingSet,
    parts: Split,
    candidate: Floats,
    *,
    guard: OffTargetScores | None = None,
    cross_validated: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Verdict:
    """`judge` on the gate's part of the material, with the association to what the incumbent wasn't fitted on.

    Args:
        material: all corrections.
        parts: the split whose `fit` the candidate comes from.
        candidate: (len(parts.gate), L) log-odds of the candidate on the gate's images.
        guard: see `judge`.
        cross_validated: see `judge`.
        seed: of resamples and permutations.

    Returns:
        The verdict.
    """
    return judge(
        tags=material.tags,
        labels=material.labels[parts.gate],
        weights=material.weights[parts.gate],
        incumbent=material.incumbent[parts.gate],
        candidate=candidate,
        groups=parts.groups[parts.gate],
        guard=guard,
        association=_association(material, parts, seed),
        share=parts.share,
        cross_validated=cross_validated,
        seed=seed,
    )


def _association(material: TrainingSet, parts: Split, seed: int) -> AssociationTest:
    """Of the incumbent to all corrections where it is the bundle, to the gate's where it is a version.

    A version was fitted on most of the other images, and ranks whatever labels it has learned by heart. It is measured
    on them all the same where the gate has fewer than `RELATED_POSITIVES`: honest corrections would be refused by luck.
    """
    rows = np.arange(len(material))
    if material.incumbent is not material.base:
        positives = (material.labels & material.known)[parts.gate].sum()
        rows = parts.gate if positives >= RELATED_POSITIVES else rows
    return permutation_test(
        material.incumbent[rows], material.labels[rows], material.weights[rows], parts.groups[rows], seed
    )


def _too_little(
    labels: NDArray[np.bool_], weights: Floats, groups: NDArray[np.int64], share: float, figures: dict[str, float]
) -> Verdict | None:
    images, positives = len(np.unique(groups)), int((labels & (weights > 0))[:, _evaluable(labels, weights)].sum())
    missing = float(max(FEWEST_IMAGES - images, 0))
    if positives < FEWEST_POSITIVES:
        per_image = max(positives, 1) / max(images, 1)
        missing = max(missing, (FEWEST_POSITIVES - positives) / per_image)
    if not missing:
        return None
    more = math.ceil(missing / share)
    reason = message_too_little(images, positives, (FEWEST_IMAGES, FEWEST_POSITIVES), more)
    return Verdict("needs_data", reason, figures | {"positives": positives, "more_corrections": more})


def _evaluable(labels: NDArray[np.bool_], weights: Floats) -> NDArray[np.bool_]:
    """(L,): tags with images that they are right for and images that they are wrong for."""
    known = weights > 0
    return np.logical_and((labels & known).any(axis=0), (~labels & known).any(axis=0))


def _by_evidence(change: RankingChange, share: float, figures: dict[str, float]) -> Verdict:
    images = int(figures["images"])
    found = message_comparison(change, images)
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
            f" about {count(more, 'more corrected image')} would settle it."
        )
        return Verdict("needs_data", sentence, figures | {"more_corrections": more})
    if not change.low and not change.high and not change.change:
        return Verdict("reject", f"The candidate ranks exactly as what is served now: {found}.", figures)
    sentence = f"The candidate doesn't rank better: {found}, {ACCEPTED_FROM:.1%} are needed."
    return Verdict("reject", sentence, figures)


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
