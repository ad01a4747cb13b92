"""Stacking of head, probe and prior by logistic regression on out-of-fold logits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ram_backend.metrics import mean_average_precision
from starter.calibration import (
    Curve,
    fit_curve,
    fit_logistic,
    fit_tag_curve,
)
from starter.data import EXHAUSTIVE_SETS, PRESENT, UNKNOWN

FloatArray = NDArray[np.float32]
FloatArray64 = NDArray[np.float64]

EXHAUSTIVE_WEIGHT = 3.0
"""Of a pair of an exhaustive set: such photos are few, and their absences are certain."""
VISIBLE = -2.94
"""Logit of a score of 0.05."""
KIND_SLOPE = 2.0
"""Slope of untrained tags that ImageNet has classes for."""
RARE_OFFSET = -2.0
"""Added to the offset of vocabulary tags that no photo showed: most of them are rarer than those of the sets."""


@dataclass(frozen=True)
class OutOfFold:
    """Readings of photos by models that saw neither the photo nor, where `seen` is False, the tag.

    Attributes:
        component_logits: (3, N, C) head, probe, prior.
        seen: (N, C) whether the tag was among those trained.
        states: (N, C) 1 present, 0 absent, -1 unknown.
        rows: (C,) rows in the vocabulary.
        groups: photos (N,) of each labelled set, by set name.
        listed: per set the columns that it is labelled with.
    """

    component_logits: FloatArray
    seen: NDArray[np.bool_]
    states: NDArray[np.int8]
    rows: NDArray[np.int64]
    groups: dict[str, NDArray[np.bool_]]
    listed: dict[str, NDArray[np.int64]]

    def quality(self, mixing: FloatArray, seen: bool) -> float:
        """Mean over the sets of the macro mAP of their own tags, over pairs whose tag was (not) trained."""
        results = []
        logits = mixed(self.component_logits, mixing)
        for name, columns in self.listed.items():
            photos = self.groups[name]
            states = self.states[photos][:, columns]
            known = (states != UNKNOWN) & (self.seen[photos][:, columns] == seen)
            value = mean_average_precision(logits[photos][:, columns], states == PRESENT, known)
            results.append(value)
        return float(np.nanmean(results))


def mixed(component_logits: FloatArray, mixing: FloatArray) -> FloatArray:
    """Logits of head, probe and prior (3, N, C) and weights (C, 3) or (3,) to logits (N, C)."""
    weights = np.broadcast_to(mixing, (component_logits.shape[2], 3))
    logits: FloatArray = np.einsum("rnc,cr->nc", component_logits, weights)
    return logits


@dataclass(frozen=True)
class SharedMixing:
    """One formula for the mixing weights and the offset of every trained tag, from how many photos showed it.

    With doubt = 1 / sqrt(count + 1) the weights are head; probe + probe_doubt * doubt; prior + prior_doubt * doubt; and
    the offset is constant + rate * log(share of photos) + constant_doubt * doubt.
    """

    head: float
    probe: float
    probe_doubt: float
    prior: float
    prior_doubt: float
    constant: float
    rate: float
    constant_doubt: float

    def weights(self, counts: NDArray[np.int64]) -> FloatArray:
        """(C, 3), never negative."""
        doubt = 1 / np.sqrt(counts + 1.0)
        columns = [
            np.full(len(counts), self.head),
            self.probe + self.probe_doubt * doubt,
            self.prior + self.prior_doubt * doubt,
        ]  # fmt: skip
        return np.maximum(np.stack(columns, axis=1), 0.01).astype(np.float32)

    def offsets(self, counts: NDArray[np.int64], log_rates: FloatArray64) -> FloatArray64:
        """(C,)."""
        return self.constant + self.rate * log_rates + self.constant_doubt / np.sqrt(counts + 1.0)


def fit_seen(data: OutOfFold, counts: NDArray[np.int64], log_rates: FloatArray64) -> SharedMixing:
    """Logistic regression over all out-of-fold pairs of trained tags: scores of different tags become comparable.

    Args:
        data: out-of-fold logits.
        counts: (C,) photos that showed each tag in training.
        log_rates: (C,) logarithm of the share of photos that show it.
    """
    pairs = informative_pairs(data) & data.seen
    shape = pairs.shape
    doubt = np.broadcast_to(1 / np.sqrt(counts + 1.0), shape)[pairs]
    head, probe, prior = (reading[pairs].astype(np.float64) for reading in data.component_logits)
    rate = np.broadcast_to(log_rates, shape)[pairs]
    inputs = np.stack([head, probe, probe * doubt, prior, prior * doubt, np.ones_like(head), rate, doubt])
    weights = np.ones(shape)
    for name, photos in data.groups.items():
        weights[photos] = EXHAUSTIVE_WEIGHT if name in EXHAUSTIVE_SETS else 1.0
    return SharedMixing(*fit_logistic(inputs, data.states[pairs] == PRESENT, weights[pairs]).tolist())


def choose_unseen(data: OutOfFold) -> FloatArray:
    """Weights (3,) of tags that training didn't see, with the best out-of-fold quality."""
    grid = [np.array((*point, 1.0), dtype=np.float32) for point in product((0.05, 0.1, 0.2), (4.0, 8.0, 12.0))]
    return max(grid, key=lambda point: data.quality(point, seen=False))


@dataclass(frozen=True)
class TagCurves:
    """Calibration of L vocabulary tags, and of new tags."""

    slope: FloatArray
    offset: FloatArray
    new: Curve


def log_rates(data: OutOfFold) -> FloatArray64:
    """(C,) logarithm of the share of photos that show a tag, kept away from 0."""
    pairs = informative_pairs(data) & data.seen
    shown = ((data.states == PRESENT) & pairs).sum(0)
    return np.log((shown + 0.5) / (pairs.sum(0) + 20))


def calibrate(
    data: OutOfFold, logits: FloatArray, offsets: FloatArray64, kinds: FloatArray, measured: NDArray[np.bool_]
) -> TagCurves:
    """Fits the curves.

    Args:
        data: out-of-fold logits.
        logits: (N, C), their mix: of the seen kind where the tag was trained, of the unseen kind elsewhere.
        offsets: (C,) offset that the shared formula gives a trained tag.
        kinds: (L,) the prior's reading where the tag's ImageNet classes are as likely there as not; nan: it has none.
        measured: (L,) whether people were asked about the tag (others come from words of captions alone).
    """
    labels = data.states == PRESENT
    informative = informative_pairs(data)
    numbers = logits.astype(np.float64)
    trained = informative & data.seen
    apart = informative & ~data.seen
    new = fit_curve(numbers[apart], labels[apart])
    grounded = np.isfinite(kinds)
    slope = np.where(grounded, KIND_SLOPE, new.slope).astype(np.float32)
    offset = np.where(grounded, -KIND_SLOPE * kinds, new.offset + RARE_OFFSET).astype(np.float32)
    positives = (labels & trained).sum(0)
    columns = np.flatnonzero(((positives > 0) | measured[data.rows]) & (trained & ~labels).any(0))
    asked = columns[measured[data.rows[columns]]]
    raised = np.zeros_like(numbers)
    curves = {}
    for column in columns:
        pairs = trained[:, column]
        own_curve = fit_tag_curve(numbers[pairs, column] + offsets[column], labels[pairs, column], Curve(1.0, 0.0))
        curve = Curve(own_curve.slope, own_curve.slope * float(offsets[column]) + own_curve.offset)
        curves[column] = curve
        raised[:, column] = curve.slope * numbers[:, column] + curve.offset
    final = _rescaled(data, raised, labels, trained, asked)
    for column, curve in curves.items():
        slope[data.rows[column]] = curve.slope * final.slope
        offset[data.rows[column]] = curve.offset * final.slope + final.offset
    return TagCurves(slope, offset, new)


def _rescaled(
    data: OutOfFold,
    raised: FloatArray64,
    labels: NDArray[np.bool_],
    trained: NDArray[np.bool_],
    asked: NDArray[np.int64],
) -> Curve:
    """A last curve over all tags, fitted where scores are visible (above 0.05), each set with equal weight."""
    inputs, targets, weights = [], [], []
    for name in data.listed:
        chosen = trained[:, asked] & data.groups[name][:, None] & (raised[:, asked] > VISIBLE)
        values = raised[:, asked][chosen]
        inputs.append(values)
        targets.append(labels[:, asked][chosen])
        weights.append(np.full(len(values), 1000 / max(1, len(values))))
    values = np.concatenate(inputs)
    if len(values) < 50:
        return Curve(1.0, 0.0)
    stacked = np.stack([values, np.ones_like(values)])
    slope, offset = fit_logistic(stacked, np.concatenate(targets), np.concatenate(weights)).tolist()
    return Curve(max(slope, 0.3), offset)


def informative_pairs(data: OutOfFold) -> NDArray[np.bool_]:
    """Pairs (N, C) that show how common a tag is: of photos that are labelled with many tags.

    A tag that only exhaustive sets are labelled with is judged by these: captions leave out most of what is to be seen.
    """
    pairs = np.zeros(data.states.shape, dtype=np.bool_)
    for name in data.listed:
        pairs |= data.groups[name][:, None]
    exhaustive = [name for name in data.listed if name in EXHAUSTIVE_SETS]
    captioned = [name for name in data.listed if name not in EXHAUSTIVE_SETS]
    if exhaustive and captioned:
        own = np.concatenate([data.listed[name] for name in captioned])
        for name in exhaustive:
            only = np.setdiff1d(data.listed[name], own)
            pairs[np.ix_(~data.groups[name], only)] = False
    return pairs & (data.states != UNKNOWN)
