"""Metrics of multi-label scores: one definition each, for gate, benchmarks and evaluation. Pure.

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

CALIBRATION_FLOOR = 0.05
"""Pairs scored at or below this stay out of the calibration error: sure negatives would hide the rest."""


def average_precision_per_tag(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Average precision of each tag's ranking of the images, equal to scikit-learn's `average_precision_score`.

    AP = sum over distinct scores, from high to low, of (recall gained) x
    (precision there), not interpolated.

    Returns:
        (L,) in (0, 1]; nan for a tag without a known positive.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    result = np.full(scores_.shape[1], np.nan)
    for tag in np.flatnonzero((labels_ & known_).any(axis=0)):
        rows = np.flatnonzero(known_[:, tag])
        rows = rows[np.argsort(-scores_[rows, tag], kind="stable")]
        last_of_equal = np.append(np.diff(scores_[rows, tag]) != 0, True)
        hits = np.cumsum(labels_[rows, tag])[last_of_equal]
        precision = hits / (np.flatnonzero(last_of_equal) + 1)
        result[tag] = (np.diff(hits, prepend=0) * precision).sum() / hits[-1]
    return result


def mean_average_precision(
    scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None = None, min_positives: int = 3
) -> float:
    """Macro mAP: the plain mean of `average_precision_per_tag` over the tags with at least `min_positives`.

    The AP of a tag with fewer known positives is mostly luck. In (0, 1]; nan
    where no tag has enough.
    """
    if min_positives < 1:
        raise InputError(f"min_positives is {min_positives}: it has to be at least 1.")
    scores_, labels_, known_ = _checked(scores, labels, known)
    counted = (labels_ & known_).sum(axis=0) >= min_positives
    if not counted.any():
        return float("nan")
    return float(average_precision_per_tag(scores_[:, counted], labels_[:, counted], known_[:, counted]).mean())


def f1(
    scores: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike,
    known: ArrayLike | None = None,
    average: Literal["micro", "macro"] = "micro",
) -> float:
    """F1 of the tags that are on, in [0, 1]; on = score strictly above the threshold (one number, or (L,)).

    "micro" pools the pairs of all tags; "macro" is the mean over the tags with
    a known positive.
    """
    scores_, labels_, known_ = _checked(scores, labels, known)
    thresholds_ = np.asarray(thresholds, dtype=np.float64)
    if thresholds_.shape not in ((), (scores_.shape[1],)):
        raise InputError(
            f"thresholds {thresholds_.shape} have to be one number or one for each of {scores_.shape[1]} tags."
        )
    if average not in ("micro", "macro"):
        raise InputError(f"average={average!r} is not known: use 'micro' or 'macro'.")
    on, right = (scores_ > thresholds_) & known_, labels_ & known_
    hits, total = (on & right).sum(axis=0), on.sum(axis=0) + right.sum(axis=0)
    if average == "micro":
        return float(2 * hits.sum() / total.sum()) if total.any() else float("nan")
    counted = right.any(axis=0)
    return float((2 * hits[counted] / total[counted]).mean()) if counted.any() else float("nan")


def edits(
    scores: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike,
    known: ArrayLike | None = None,
    add_costs: ArrayLike = 1.0,
) -> FloatArray:
    """What an annotator does to each image: ticks removed plus tags added, these weighted by their cost.

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
    found: FloatArray = (on & ~labels_ & known_).sum(axis=1) + added.sum(axis=1)
    return found


def precision_at_k(scores: ArrayLike, labels: ArrayLike, known: ArrayLike | None, k: int) -> float:
    """Share of right tags among the k best-scored known tags of an image, averaged over images, in [0, 1].

    An image with fewer than k known tags is judged by those it has. Where tags
    tie for the last places, the share is the expected one if the places were
    drawn among them.
    """
    if k < 1:
        raise InputError(f"k is {k}: it has to be at least 1.")
    scores_, labels_, known_ = _checked(scores, labels, known)
    shares = [
        _expected_precision(scores_[row, mask], labels_[row, mask], k) for row, mask in enumerate(known_) if mask.any()
    ]
    return float(np.mean(shares)) if shares else float("nan")


def calibration_error(
    scores: ArrayLike,
    labels: ArrayLike,
    known: ArrayLike | None = None,
    floor: float = CALIBRATION_FLOOR,
    bins: int = 15,
) -> float:
    """Expected calibration error: mean over bins of |mean score - share of right tags|, weighted by their pairs.

    The scores are probabilities in [0, 1]; only pairs with a score strictly
    above `floor` count. The bins are equally wide; a bin holds its lower bound,
    the last one also 1.
    """
    if bins < 1:
        raise InputError(f"bins is {bins}: it has to be at least 1.")
    scores_, labels_, known_ = _checked(scores, labels, known)
    if ((scores_[known_] < 0) | (scores_[known_] > 1)).any():
        raise InputError(
            "Calibration needs probabilities in [0, 1], and some scores are outside: pass scores, not logits."
        )
    counted = known_ & (scores_ > floor)
    if not counted.any():
        return float("nan")
    score = scores_[counted]
    bin_of = np.clip(np.searchsorted(np.linspace(0.0, 1.0, bins + 1), score, side="right") - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=score - labels_[counted], minlength=bins)
    return float(np.abs(gaps).sum() / len(score))


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


def _expected_precision(scores: FloatArray, labels: BoolArray, k: int) -> float:
    """Precision among the k best of one image, ties for the last places shared evenly."""
    places = min(k, scores.size)
    last = np.partition(scores, scores.size - places)[scores.size - places]
    above, tied = scores > last, scores == last
    free = places - int(above.sum())
    return float((labels[above].sum() + free * labels[tied].mean()) / places)
