"""Sign-flip test of edits, permutation test, Poisson test of annotators. Pure.

Shapes: N images, L tags, G groups of near-duplicates. Everything is resampled
by group: near-duplicates aren't independent evidence.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.metrics import average_precision_per_tag

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FLIPS = 4999
PERMUTATIONS = 999
MOST_COMPARED, MOST_PERMUTED = 5000, 500
"""Groups that both tests look at, drawn by the seed."""
SUBSET_STREAM, FLIP_STREAM, PERMUTATION_STREAM = 1, 2, 3
"""Streams of the seed, so that each use draws its own random numbers."""

FAR_FEWER = 0.4
"""Share of the expected edits below which they are far fewer..."""
CERTAIN = 0.01
"""...where the probability of as few, at that share, is at most this."""


@dataclass(frozen=True)
class EditChange:
    """Edits per photo before and after, by their costs; a group counts once.

    Attributes:
        before: mean over the groups, at least 0.
        after: the same of the candidate.
        standard_error: standard error of the difference; inf for one group.
        p_value: share of sign flips of the groups' differences that save as
            much; in (0, 1].
        groups: G.
    """

    before: float
    after: float
    standard_error: float
    p_value: float
    groups: int

    @property
    def change(self) -> float:
        """After minus before, as a share of before; 0 without edits."""
        return (self.after - self.before) / self.before if self.before else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `change`."""
        half = 1.96 * self.standard_error / self.before if self.before else 0.0
        return self.change - half, self.change + half


def compare_edits(before: FloatArray, after: FloatArray, groups: NDArray[np.int64], seed: int = 0) -> EditChange:
    """Paired sign-flip test: does the candidate need fewer edits?

    Under the null hypothesis a group's difference is as likely to be positive
    as negative (Good 2005, "Permutation, Parametric and Bootstrap Tests of
    Hypotheses", 3.2).

    Args:
        before: (N,) cost of the edits of each photo.
        after: (N,) the same for the candidate.
        groups: (N,) any integers; rows of equal number count as one photo.
        seed: of the flips; at least 0.

    Returns:
        The change over all groups, or over `MOST_COMPARED` drawn ones.
    """
    rows = _some_groups(groups, MOST_COMPARED, seed)
    means = by_group(np.stack([before[rows], after[rows]], axis=1), groups[rows])
    saved = means[:, 0] - means[:, 1]
    sizes, counts = np.unique(np.abs(saved).round(9), return_counts=True)
    positive = np.random.default_rng([FLIP_STREAM, seed]).binomial(counts, 0.5, (FLIPS, len(counts)))
    as_good = int(((2 * positive - counts) @ sizes >= saved.sum() - 1e-6).sum())
    standard_error = float(saved.std(ddof=1) / len(saved) ** 0.5) if len(saved) > 1 else float("inf")
    first, second = means.mean(axis=0).tolist()
    return EditChange(first, second, standard_error, (1 + as_good) / (1 + FLIPS), len(saved))


def ranking_change(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    labels: NDArray[np.bool_],
    known: NDArray[np.bool_],
    folds: NDArray[np.int64],
) -> tuple[float, float]:
    """Change of mean average precision and its standard error over tags.

    Images are ranked within their fold: scores of different fits differ by
    offsets that anticorrelate with the labels of what each left out.

    Args:
        before: (N, L) scores.
        after: (N, L).
        labels: (N, L).
        known: (N, L).
        folds: (N,).

    Returns:
        The mean over all tags of all folds that can be ranked (0 where there
        are none), and its standard error.
    """
    changes: list[float] = []
    for fold in np.unique(folds):
        rows = folds == fold
        ranked = (labels & known)[rows].any(axis=0) & (~labels & known)[rows].any(axis=0)
        if ranked.any():
            pairs = (labels[rows][:, ranked], known[rows][:, ranked])
            first, second = (average_precision_per_tag(each[rows][:, ranked], *pairs) for each in (before, after))
            changes += (second - first).tolist()
    if not changes:
        return 0.0, 0.0
    return float(np.mean(changes)), float(np.std(changes) / len(changes) ** 0.5)


def permutation_test(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    weights: NDArray[np.floating],
    groups: NDArray[np.int64],
    seed: int = 0,
) -> dict[str, float]:
    """Are images ranked high by their tags? Permutes rows of labels between groups.

    The statistic is the mean rank of right images among their tag's, over the
    right pairs of all tags by weight (an area under the ROC curve, pooled):
    many tags that are each a little better than chance show together.

    Args:
        scores: (N, L), finite; only the order within a tag matters.
        labels: (N, L).
        weights: (N, L) in [0, 1].
        groups: (N,).
        seed: of the permutations; at least 0.

    Returns:
        `place`: mean rank of right images in the ranking of their tag, pooled
        over all tags: 0 last, .5 chance, 1 first. `place_by_chance`: its 95 %
        quantile when labels are permuted between groups of images.
        `p_unrelated`: share of permutations that rank as well, the observed
        order counted among them; in (0, 1]. Where nothing is right, `place` and
        chance are nan and that is 1, as where there is only one group.
    """
    from scipy.stats import rankdata

    rows = _some_groups(groups, MOST_PERMUTED, seed)
    right = labels[rows] * weights[rows]
    if not right.any():
        return {"place": float("nan"), "place_by_chance": float("nan"), "p_unrelated": 1.0}
    random = np.random.default_rng([PERMUTATION_STREAM, seed])
    below = (rankdata(scores[rows], axis=0) - 1) / max(1, len(rows) - 1)  # share of the other images; ties count half
    ranks = by_group(below - 0.5, groups[rows])
    right = by_group(right, groups[rows])
    matches = right @ ranks.T / right.sum()  # [labels of group i, places of group j]
    here = np.arange(len(matches))
    observed = float(matches[here, here].sum())
    permuted = np.array([matches[random.permutation(len(matches)), here].sum() for _ in range(PERMUTATIONS)])
    as_good = int((permuted >= observed - 1e-12).sum())
    by_chance = float(np.quantile(permuted, 0.95)) + 0.5
    p_unrelated = (1 + as_good) / (1 + PERMUTATIONS)
    return {"place": observed + 0.5, "place_by_chance": by_chance, "p_unrelated": p_unrelated}


def filter_annotators(
    scores: NDArray[np.floating], labels: BoolArray, known: BoolArray, ticked: BoolArray, annotators: Sequence[Hashable]
) -> tuple[BoolArray, BoolArray]:
    """Pairs that are no evidence, and imputed ones: a Poisson test of annotators' edits.

    An untouched tag is a "no" at full weight, unless its annotator adds far
    fewer tags than the scores expect: then tags that stayed off are imputed.
    Annotators who remove far fewer, too, accept everything, and their photos
    are no evidence.

    Args:
        scores: (N, L) calibrated probabilities of the bundle.
        labels: (N, L).
        known: (N, L).
        ticked: (N, L) tags that were ticked when the annotator began.
        annotators: of the N images, equal where the same people annotated.

    Returns:
        Two of (N, L), of known pairs: no evidence; imputed.
    """
    from scipy.stats import poisson

    numbers = {each: number for number, each in enumerate(dict.fromkeys(annotators))}
    of_row = np.array([numbers[each] for each in annotators], dtype=np.int64)
    off, on = known & ~ticked, known & ticked
    nothing, imputed = np.zeros_like(known), np.zeros_like(known)
    expected = [(scores * off).sum(axis=1), ((1 - scores) * on).sum(axis=1)]
    edits = [(labels & off).sum(axis=1), (~labels & on).sum(axis=1)]
    for number in numbers.values():
        rows = of_row == number
        counts, means = ([each[rows].sum() for each in pair] for pair in (edits, expected))
        added, removed = poisson.cdf(counts, FAR_FEWER * np.array(means)) <= CERTAIN
        if added:
            nothing[rows] = known[rows] & removed
            imputed[rows] = off[rows] & ~labels[rows] & (not removed)
    return nothing, imputed


def _some_groups(groups: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Rows of all groups, or of a sample of the groups."""
    numbers = np.unique(groups)
    if len(numbers) > most:
        numbers = np.random.default_rng([SUBSET_STREAM, seed]).permutation(numbers)[:most]
    return np.flatnonzero(np.isin(groups, numbers))


def by_group(values: FloatArray, groups: NDArray[np.int64]) -> FloatArray:
    """(G, L): mean over the rows of each group."""
    order = np.argsort(groups, kind="stable")
    _, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
    result: FloatArray = np.add.reduceat(values[order], first, axis=0) / counts[:, None]
    return result
