"""Paired bootstrap on weighted mAP and permutation test of association. Pure; same seed, same answer.

Shapes: N images, L tags, G groups of look-alikes. Everything is resampled by group: look-alikes are no independent
evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES = 1000
"""Bootstrap resamples: the probability is then known to about .01 where it is near .95."""
FEWEST_RESAMPLES = 200
BLOCK = 512
"""Positives of a tag that are worked on at a time: bounds the memory."""
WORK = 1e11
"""Multiplications of one bootstrap: some seconds. Above it there are fewer resamples, `FEWEST_RESAMPLES` at least."""
PERMUTATIONS = 999
MOST_COMPARED, MOST_PERMUTED = 3000, 1000
"""Groups that the bootstrap and the permutation test look at, drawn by the seed: more hardly change the answer."""
SUBSET_STREAM, DRAW_STREAM, PERMUTATION_STREAM = 1, 2, 3
"""Numbers that go with the seed, so that each use of it draws its own random numbers."""
EQUAL = 1e-6
"""Changes of a mean average precision up to this are rounding."""


@dataclass(frozen=True)
class RankingChange:
    """Weighted mAP of two rankings of the same images, and how sure the difference is.

    The mean runs over the tags with at least one believed positive and one believed negative; a tag counts by the
    square root of its positives. With few images most tags have one or two positives, and their average precision is
    mostly luck: counted like the others (macro) they drown the difference; counted by positives, the frequent tags
    would decide alone.

    Attributes:
        before: mAP of the first ranking, in (0, 1]; nan where no tag can be compared.
        after: of the second.
        low: 2.5 % quantile of the difference over resamples of the groups.
        high: its 97.5 % quantile.
        spread: its standard deviation.
        probability: share of resamples in which the second ranking is better, in [0, 1].
        macro_before: mAP of the first ranking where each tag counts the same.
        macro_after: of the second.
        tags: number of tags compared.
        positives: number of (image, tag) pairs that are right, over these tags.
    """

    before: float
    after: float
    low: float
    high: float
    spread: float
    probability: float
    macro_before: float
    macro_after: float
    tags: int
    positives: int

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def macro_change(self) -> float:
        """The same where each tag counts the same."""
        return self.macro_after - self.macro_before


@dataclass(frozen=True)
class AssociationTest:
    """Whether scores have anything to do with labels.

    Attributes:
        mean_rank: of right images in the ranking of their tag, pooled over all tags: 0 last, .5 chance, 1 first; nan
            where nothing is right.
        chance: its 95 % quantile when labels are permuted between groups of images.
        p_value: share of permutations that rank as well, the observed order counted among them; in (0, 1].
    """

    mean_rank: float
    chance: float
    p_value: float


def compare_rankings(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    labels: NDArray[np.bool_],
    weights: NDArray[np.floating],
    groups: NDArray[np.int64],
    seed: int = 0,
) -> RankingChange:
    """Paired bootstrap over groups of images on mean average precision.

    An average precision counts a pair by its weight times how often its image was drawn. A tag without a positive in a
    resample is left out of that resample, for both rankings. An image that is drawn twice stands beside itself, which
    helps every ranking: with rare tags, the mean difference of the resamples is larger than the sample's. So the
    more conservative of the raw and the re-centred bootstrap counts. (The re-centred one alone promises too much where
    a precision is near its ceiling of 1.)

    Args:
        before: (N, L) scores or logits, finite; only their order within a tag matters.
        after: (N, L).
        labels: (N, L).
        weights: (N, L) in [0, 1]; 0: unknown, left out.
        groups: (N,) any integers; rows of equal number are drawn together.
        seed: of the resamples; at least 0.

    Returns:
        The figures; nan (and a probability of 0) where no tag can be compared.
    """
    rows = _some_groups(groups, MOST_COMPARED, seed)
    before, after, labels, weights, groups = before[rows], after[rows], labels[rows], weights[rows], groups[rows]
    known = weights > 0
    counted = np.flatnonzero((labels & known).any(axis=0) & (~labels & known).any(axis=0))
    if not len(counted):
        nan = float("nan")
        return RankingChange(nan, nan, nan, nan, nan, 0.0, nan, nan, 0, 0)
    positives = int((labels & known)[:, counted].sum())
    resamples = int(np.clip(WORK / (len(labels) * positives * 4), FEWEST_RESAMPLES, RESAMPLES))
    draws = _draws(groups, resamples, seed)
    sums = np.zeros((2, len(draws)))
    total = np.zeros(len(draws))
    macro = np.zeros(2)
    for tag in counted:
        pairs = (labels[:, tag], weights[:, tag])
        first, drawn = _average_precision(before[:, tag], *pairs, draws)
        second, _ = _average_precision(after[:, tag], *pairs, draws)
        share = np.sqrt(drawn)
        sums += share * np.stack([first, second])
        total += share
        macro += np.array([first[0], second[0]]) / len(counted)
    mean_before, mean_after = sums / np.maximum(total, np.finfo(np.float64).tiny)
    observed = float(mean_after[0] - mean_before[0])
    change = (mean_after - mean_before)[1:]
    readings = np.stack([change, change + observed - change.mean()])
    low, high = np.quantile(readings, [0.025, 0.975], axis=1)
    return RankingChange(
        before=float(mean_before[0]),
        after=float(mean_after[0]),
        low=float(low.min()),
        high=float(high.max()),
        spread=float(change.std()),
        probability=float((readings > EQUAL).mean(axis=1).min()),
        macro_before=float(macro[0]),
        macro_after=float(macro[1]),
        tags=len(counted),
        positives=positives,
    )


def permutation_test(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    weights: NDArray[np.floating],
    groups: NDArray[np.int64],
    seed: int = 0,
) -> AssociationTest:
    """Are images ranked high by the tags they have? Rows of labels, with their weights, are permuted between groups.

    The statistic is the mean place of right images in their tag's ranking, over the right pairs of all tags by weight
    (an area under the ROC curve, pooled): many tags that are each a little better than chance show together.

    Args:
        scores: (N, L), finite; only the order within a tag matters.
        labels: (N, L).
        weights: (N, L) in [0, 1].
        groups: (N,).
        seed: of the permutations; at least 0.

    Returns:
        The figures; a p-value of 1 where nothing is right or there is only one group.
    """
    rows = _some_groups(groups, MOST_PERMUTED, seed)
    right = labels[rows] * weights[rows]
    if not right.any():
        return AssociationTest(float("nan"), float("nan"), 1.0)
    random = np.random.default_rng([PERMUTATION_STREAM, seed])
    places = _by_group(_places(scores[rows]) - 0.5, groups[rows])
    right = _by_group(right, groups[rows])
    matches = right @ places.T / right.sum()  # [labels of group i, places of group j]
    here = np.arange(len(matches))
    observed = float(matches[here, here].sum())
    permuted = np.array([matches[random.permutation(len(matches)), here].sum() for _ in range(PERMUTATIONS)])
    as_good = int((permuted >= observed - 1e-12).sum())
    return AssociationTest(
        mean_rank=observed + 0.5,
        chance=float(np.quantile(permuted, 0.95)) + 0.5,
        p_value=(1 + as_good) / (1 + PERMUTATIONS),
    )


def _some_groups(groups: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Rows of all groups, or of a sample of the groups."""
    numbers = np.unique(groups)
    if len(numbers) > most:
        numbers = np.random.default_rng([SUBSET_STREAM, seed]).permutation(numbers)[:most]
    return np.flatnonzero(np.isin(groups, numbers))


def _draws(groups: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.float32]:
    """(1 + resamples, N): how often each image is drawn; the first row is the sample itself."""
    numbers, of_row = np.unique(groups, return_inverse=True)
    random = np.random.default_rng([DRAW_STREAM, seed])
    drawn = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=resamples)
    rows = np.concatenate([np.ones((1, len(numbers)), dtype=np.int64), drawn])
    result: NDArray[np.float32] = rows[:, of_row.ravel()].astype(np.float32)
    return result


def _average_precision(
    scores: NDArray[np.floating],
    labels: NDArray[np.bool_],
    weights: NDArray[np.floating],
    draws: NDArray[np.float32],
) -> tuple[FloatArray, FloatArray]:
    """One tag's average precision in each resample, and how much weight of positives the resample has.

    The tag is ranked once. Precision at a positive = (weight of positives at least as high) / (weight of all at least
    as high): for all resamples together these are matrix products of the draws with tables of who is as high as whom.

    Args:
        scores: (N,).
        labels: (N,).
        weights: (N,).
        draws: (R, N).

    Returns:
        (R,) average precision, 0 where there is no positive; (R,) at least 0.
    """
    believed = np.where(labels, weights, 0.0).astype(np.float32)
    everybody = weights.astype(np.float32)[:, None]
    all_places = np.flatnonzero(believed)
    found, weight = np.zeros(len(draws)), np.zeros(len(draws))
    for at in range(0, len(all_places), BLOCK):
        places = all_places[at : at + BLOCK]
        as_high = scores[:, None] >= scores[places][None, :]
        everyone = draws @ (as_high * everybody)
        positives = draws[:, all_places] @ (as_high[all_places] * believed[all_places][:, None])
        precision = np.divide(positives, everyone, out=np.zeros_like(positives), where=everyone > 0)
        counts = draws[:, places] * believed[places]
        found += (counts * precision).sum(axis=1, dtype=np.float64)
        weight += counts.sum(axis=1, dtype=np.float64)
    return np.divide(found, weight, out=np.zeros_like(found), where=weight > 0), weight


def _places(scores: NDArray[np.floating]) -> FloatArray:
    """(N, L): share of the other images that an image is ranked above, under each tag; ties count half."""
    from scipy.stats import rankdata

    ranks: FloatArray = rankdata(scores, axis=0)
    return (ranks - 1) / max(1, len(scores) - 1)


def _by_group(values: FloatArray, groups: NDArray[np.int64]) -> FloatArray:
    """(G, L): mean over the rows of each group."""
    order = np.argsort(groups, kind="stable")
    _, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
    result: FloatArray = np.add.reduceat(values[order], first, axis=0) / counts[:, None]
    return result
