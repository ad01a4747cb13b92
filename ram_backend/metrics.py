"""Metrics of multi-label scores, and their bootstrap: one definition each. Pure.

The arrays of one call share the shape (N, L), N images by L tags:

- `scores`: float, finite, higher = more certain; logits or probabilities,
unless a function says which.
- `labels`: bool (or 0/1), True = the tag is right for the image.
- `known`: bool, False = nobody said whether the tag is right: the pair is left
out. None: all pairs are known.

A number that the data can't give (no known positive, no known pair) is nan,
never 0. All functions raise InputError where shapes differ, scores are not
finite, or a value is out of its range.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ram_backend.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RESAMPLES = 1000
"""Bootstrap samples."""
CALIBRATION_FLOOR = 0.05
"""Pairs scored no higher stay out: sure negatives hide the rest."""
BINS = 15
"""Bins of calibration error and reliability diagram."""


def average_precision_per_tag(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Average precision of each tag, as scikit-learn's `average_precision_score`.

    AP = sum over distinct scores, from high to low, of (recall gained) x
    (precision there), not interpolated.

    Returns:
        (L,) in (0, 1]; nan for a tag without a known positive.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    weights = np.ones((1, len(scores_)))
    tags = range(scores_.shape[1])
    result = [_average_precision(scores_, labels_, known_, tag, weights)[0] for tag in tags]
    return np.array(result, dtype=np.float64)


def mean_average_precision(
    scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None, min_positives: int = 3
) -> float:
    """Macro mAP: mean `average_precision_per_tag` of tags with at least `min_positives`.

    The AP of a tag with fewer known positives is mostly luck.

    Returns:
        In (0, 1]; nan where no tag has enough.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    counted = (labels_ & known_).sum(axis=0) >= min_positives
    if not counted.any():
        return float("nan")
    columns = (each[:, counted] for each in (scores_, labels_, known_))
    return float(average_precision_per_tag(*columns).mean())


def micro_average_precision(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None) -> float:
    """Average precision of one ranking of all known pairs, if tags' scores compare.

    In (0, 1]; nan where no known pair is right.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    pairs = (scores_[known_][:, None], labels_[known_][:, None])
    return float(average_precision_per_tag(*pairs)[0])


def precision_recall_f1(
    scores: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike,
    known: ArrayLike | None = None,
    average: Literal["micro", "macro"] = "micro",
) -> tuple[float, float, float]:
    """Precision, recall and F1 of the tags that are on, each in [0, 1].

    Args:
        scores: (N, L), on the scale of the thresholds.
        labels: (N, L).
        thresholds: one number, or (L,); on = score strictly above.
        known: (N, L) or None.
        average: "micro" pools the pairs of all tags (overall, OP and OR);
            "macro" is the mean over tags with a known positive, with precision
            0 for one that is never on.

    Returns:
        Pooled, precision is nan where no tag is on, recall where none is right,
        F1 where neither; "macro" is nan without a known positive.
    """
    hits, on, right = (each.sum(axis=0) for each in _decisions(scores, labels, thresholds, known))
    f1 = float(_f1(hits, on, right, average))
    if average == "micro":
        return float(_ratio(hits.sum(), on.sum())), float(_ratio(hits.sum(), right.sum())), f1
    counted = right > 0
    precision, recall = (_ratio((hits / np.maximum(1, each))[counted].sum(), counted.sum()) for each in (on, right))
    return float(precision), float(recall), f1


def ram_figures(
    scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, known: ArrayLike | None = None
) -> dict[str, float]:
    """Figures of RAM's `batch_inference.py`: "mAP", "CP" and "CR", each in [0, 1].

    All are plain means over all L tags: a tag without positives counts as 0.
    AP is the sum over right images of the precision at their rank, divided by
    their number plus 1e-8, ties in the order of numpy's reversed argsort; CP
    and CR are precision and recall with 1e-9 added to the denominator.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    hits, on, right = (each.sum(axis=0) for each in _decisions(scores, labels, thresholds, known))
    found = 0.0
    for tag in range(scores_.shape[1]):
        rows = np.flatnonzero(known_[:, tag])
        ranked = labels_[rows[np.argsort(scores_[rows, tag])[::-1]], tag]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        found += float(precision[ranked].sum() / (ranked.sum() + 1e-8))
    tags = scores_.shape[1]
    precision_, recall = hits / (on + 1e-9), hits / (right + 1e-9)
    return {"mAP": found / tags, "CP": float(precision_.mean()), "CR": float(recall.mean())}


def edits(
    scores: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike,
    known: ArrayLike | None = None,
    add_costs: ArrayLike = 1.0,
) -> FloatArray:
    """Edits of each image: ticks removed plus tags added times their cost.

    Args:
        scores: (N, L), on the scale of the thresholds.
        labels: (N, L).
        thresholds: one number, or (L,).
        known: (N, L) or None.
        add_costs: of adding a tag, in removed ticks; one number, or (L,).

    Returns:
        (N,), at least 0.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    on = scores_ > np.asarray(thresholds, dtype=np.float64)
    added = (~on & labels_ & known_) * np.asarray(add_costs, dtype=np.float64)
    return (on & ~labels_ & known_).sum(axis=1) + added.sum(axis=1)


def precision_at_k(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None, k: int) -> float:
    """Mean share of right tags among the k best-scored known tags of an image, in [0, 1].

    An image with fewer than k known tags is judged by those it has. Where tags
    tie for the last places, the share is the expected one if the places were
    drawn among them.
    """
    shares = _precision_shares(scores, labels, known, k)
    return float(_ratio(np.nansum(shares), np.isfinite(shares).sum()))


def calibration_error(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None) -> float:
    """Expected calibration error: |mean score - share of right tags| of bins, weighted by pairs.

    The scores are probabilities in [0, 1]; only pairs with a score strictly
    above `CALIBRATION_FLOOR` count. The `BINS` are equally wide; a bin holds
    its lower bound, the last one also 1.

    Returns:
        In [0, 1]; nan where no pair counts.

    Raises:
        InputError: a known score is outside [0, 1], such as a logit.
    """
    scored, right, pairs = (each.sum(axis=0) for each in _calibration_sums(scores, labels, known))
    return float(_ratio(np.abs(scored - right).sum(), pairs.sum()))


def reliability(
    scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The points of a reliability diagram: what `calibration_error` compares.

    Returns:
        Per bin (BINS,): mean score, share of right tags (both nan in an empty
        bin), and number of pairs.
    """
    scored, right, pairs = (each.sum(axis=0) for each in _calibration_sums(scores, labels, known))
    return _ratio(scored, pairs), _ratio(right, pairs), pairs


def bootstrap_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """How often each image is in each resample of a bootstrap.

    Models that are compared get the same weights (paired bootstrap).

    Args:
        images: N, at least 1.
        resamples: B.
        seed: of the draws; at least 0.

    Returns:
        (B, N) whole numbers, at least 0; each row sums to N.
    """
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    return drawn.astype(np.float64)


def bootstrap(
    scores: ArrayLike,
    labels: ArrayLike,
    known: ArrayLike | None,
    thresholds: ArrayLike | None,
    weights: FloatArray,
    min_positives: int = 3,
) -> dict[str, FloatArray]:
    """Figures of resampled images (Efron and Tibshirani 1993, chapters 6 and 13).

    Args:
        scores: (N, L).
        labels: (N, L).
        known: (N, L) or None.
        thresholds: one number, or (L,); None: the scores are no probabilities.
        weights: (B, N) from `bootstrap_weights`; all ones give the figures
            themselves.
        min_positives: of the tags whose AP counts, in the whole sample.

    Returns:
        (B,) each: "mAP" and "precision_at_5"; with thresholds also "micro_f1",
        "macro_f1" and "ece".
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    counted = np.flatnonzero((labels_ & known_).sum(axis=0) >= min_positives)
    shares = _precision_shares(scores, labels, known, 5)
    precisions, tags = np.zeros(len(weights)), np.zeros(len(weights))
    for tag in counted:
        values = _average_precision(scores_, labels_, known_, tag, weights)
        precisions += np.nan_to_num(values)
        tags += np.isfinite(values)
    best = _ratio(weights @ np.nan_to_num(shares), weights @ np.isfinite(shares))
    found = {"mAP": _ratio(precisions, tags), "precision_at_5": best}
    if thresholds is None:
        return found
    hits, on, true = (weights @ each for each in _decisions(scores, labels, thresholds, known))
    scored, right, pairs = (weights @ each for each in _calibration_sums(scores, labels, known))
    found |= {"micro_f1": _f1(hits, on, true, "micro"), "macro_f1": _f1(hits, on, true, "macro")}
    return found | {"ece": _ratio(np.abs(scored - right).sum(axis=1), pairs.sum(axis=1))}


def interval(resampled: FloatArray) -> tuple[float, float]:
    """95 % percentile interval of (B,) resampled figures; nan where there are none."""
    defined = resampled[np.isfinite(resampled)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def paired_p_value(first: FloatArray, second: FloatArray) -> float:
    """Two-sided bootstrap p-value of a difference, from paired figures.

    Args:
        first: (B,) of one model, from `bootstrap`.
        second: (B,) of the other one, with the same weights.

    Returns:
        In (0, 1]; nan where no resample has both.
    """
    differences = (second - first)[np.isfinite(second - first)]
    if not differences.size:
        return float("nan")
    tail = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * tail / (1 + differences.size))


def _average_precision(
    scores: FloatArray, labels: BoolArray, known: BoolArray, tag: int | np.intp, weights: FloatArray
) -> FloatArray:
    """(B,) average precision of a tag, by weights (B, N); nan without a positive."""
    rows = np.flatnonzero(known[:, tag])
    rows = rows[np.argsort(-scores[rows, tag], kind="stable")]
    if not labels[rows, tag].any():
        return np.full(len(weights), np.nan)
    ends = np.append(np.flatnonzero(np.diff(scores[rows, tag])), len(rows) - 1)  # of equal scores
    ordered = weights[:, rows]
    counted = np.cumsum(ordered, axis=1)[:, ends]
    hits = np.cumsum(ordered * labels[rows, tag], axis=1)[:, ends]
    precision = hits / np.maximum(counted, np.finfo(np.float64).tiny)
    return _ratio((np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1), hits[:, -1])


def _decisions(
    scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, known: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(N, L) each, 0 or 1: on and right, on, right; unknown pairs are 0."""
    scores_, labels_, known_ = _checked(scores, labels, known)
    thresholds_ = np.asarray(thresholds, dtype=np.float64)
    if thresholds_.shape not in ((), (scores_.shape[1],)):
        raise InputError(
            f"thresholds {thresholds_.shape} have to be one number or one for each of {scores_.shape[1]} tags."
        )
    on, right = (scores_ > thresholds_) & known_, labels_ & known_
    return (on & right).astype(np.float64), on.astype(np.float64), right.astype(np.float64)


def _f1(hits: FloatArray, on: FloatArray, right: FloatArray, average: str) -> FloatArray:
    """F1 (...) from counts (..., L)."""
    if average == "micro":
        return _ratio(2 * hits.sum(axis=-1), (on + right).sum(axis=-1))
    counted = right > 0
    return _ratio((2 * hits / np.maximum(1, on + right) * counted).sum(axis=-1), counted.sum(axis=-1))


def _calibration_sums(
    scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(N, BINS) each: sum of scores, number of right tags, number of pairs."""
    scores_, labels_, known_ = _checked(scores, labels, known)
    if ((scores_[known_] < 0) | (scores_[known_] > 1)).any():
        raise InputError(
            "Calibration needs probabilities in [0, 1], and some scores are outside: pass scores, not logits."
        )
    rows, tags = np.nonzero(known_ & (scores_ > CALIBRATION_FLOOR))
    score = scores_[rows, tags]
    edges = np.linspace(0.0, 1.0, BINS + 1)
    place = rows * BINS + np.clip(np.searchsorted(edges, score, side="right") - 1, 0, BINS - 1)

    def summed(values: NDArray[Any]) -> FloatArray:
        return np.bincount(place, values, len(scores_) * BINS).astype(np.float64).reshape(-1, BINS)

    return summed(score), summed(labels_[rows, tags]), summed(np.ones(len(rows)))


def _ratio(above: ArrayLike, below: ArrayLike) -> FloatArray:
    """Quotient, nan where `below` is 0."""
    numbers: FloatArray = np.asarray(below, dtype=np.float64)
    return np.divide(above, numbers, out=np.full(numbers.shape, np.nan), where=numbers != 0)


def _precision_shares(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None, k: int) -> FloatArray:
    """(N,) precision among the k best tags of each image, ties shared evenly.

    nan for an image without a known tag.
    """
    shares = np.full(len(np.asarray(scores)), np.nan)
    for row, (score, label, mask) in enumerate(zip(*_checked(scores, labels, known), strict=True)):
        if places := min(k, int(mask.sum())):
            last = np.sort(score[mask])[-places]
            above, tied = mask & (score > last), mask & (score == last)
            shares[row] = (label[above].sum() + (places - above.sum()) * label[tied].mean()) / places
    return shares


def _checked(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None) -> tuple[FloatArray, BoolArray, BoolArray]:
    """The three arrays as (N, L) float64, bool, bool."""
    scores_ = np.asarray(scores, dtype=np.float64)
    labels_ = _as_bool(labels, "labels")
    known_ = np.ones(labels_.shape, dtype=np.bool_) if known is None else _as_bool(known, "known")
    if scores_.ndim != 2 or not scores_.shape == labels_.shape == known_.shape:
        raise InputError(
            f"scores {scores_.shape}, labels {labels_.shape} and known {known_.shape} have to share one shape:"
            " (images, tags)."
        )
    if not np.isfinite(scores_[known_]).all():
        raise InputError("Some scores of known pairs are nan or infinite: check what produced them.")
    return scores_, labels_, known_


def _as_bool(values: ArrayLike, name: str) -> BoolArray:
    array: NDArray[Any] = np.asarray(values)
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise InputError(f"{name} holds values other than 0 and 1: mark unknown pairs in `known`, not in the labels.")
    return array.astype(np.bool_)
