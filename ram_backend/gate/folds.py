"""Split of corrected images into fit and gate: by content hash, look-alikes stay together.

The side of an image follows from its content alone, so it is the same in every round, on every machine and in whatever
order corrections arrive. Images that look alike form a group and stay together. From round to round images only move
from the gate to the fit: the share of the gate shrinks as corrections come in, and the gate of a smaller share is part
of the gate of a larger one. So what a served version was fitted on doesn't come back as evidence about its successor.

A few rare things move an image from fit to gate: it is marked as ground truth, or ground truth ceases to be more than
half of all; a look-alike is withdrawn; its own group of look-alikes outgrows a quarter of all images and is taken
apart, which leaves other groups as they are. All this can only make the incumbent, which was fitted on such an image,
look better than it is: a successor then needs more, never less.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.training_set import TrainingSet

LARGEST_SHARE, LARGEST_UNTIL = 0.4, 100
"""The gate's share of the images, up to this many: fewer than 40 images can hardly show a gain of a candidate."""
SMALLEST_SHARE, SMALLEST_FROM = 0.2, 1000
"""The gate's share from this many images on; between the two it falls with the logarithm of the number."""
ALIKE = (8, 4, 0)
"""Bits in which perceptual hashes of near-duplicates may differ. Inside a group of more than `LARGEST_GROUP` of all
images (photos of one fixed camera, scanned forms) the next limit is taken; in the end only equal bytes count."""
LARGEST_GROUP, SMALL_GROUP = 0.25, 4
"""A group of `SMALL_GROUP` images is never too large."""
MOST_GROUND_TRUTH = 0.5
"""Where more than this share of the groups is ground truth, only those that draw below it go to the gate: something has
to be left to learn from."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of rows that make up the whole training set.

    Attributes:
        fit: ascending rows that a candidate is fitted and chosen on.
        gate: ascending rows that it is judged by.
        share: of the gate, as it was asked for; the next round's `at_most`. In (0, 1).
        groups: (N,) int64, the same number for rows that look alike; numbered from 0 in order of appearance.
    """

    fit: Rows
    gate: Rows
    share: float
    groups: Rows


def split(training_set: TrainingSet, *, at_most: float | None = None) -> Split:
    """Splits the training set into fit and gate.

    Args:
        training_set: content hashes, perceptual hashes and ground-truth marks are looked at, labels and scores are not.
        at_most: the share of the round that the served version comes from; the gate is never larger than that.

    Returns:
        The parts. Images marked as ground truth are in the gate, together with their look-alikes; where they are more
        than `MOST_GROUND_TRUTH` of all, about half of them are.

    Raises:
        InputError: `at_most` is not in (0, 1].
    """
    if at_most is not None and not 0 < at_most <= 1:
        raise InputError(f"The largest allowed share of the gate is {at_most}: it has to be above 0 and at most 1.")
    groups = group_alike(training_set.phash, training_set.content)
    count = int(groups.max()) + 1 if len(groups) else 0
    share = gate_share(count)
    share = share if at_most is None else min(share, at_most)
    draws = np.zeros(count)
    np.maximum.at(draws, groups, [draw(content) for content in training_set.content])
    truth = np.zeros(count, dtype=np.bool_)
    np.logical_or.at(truth, groups, training_set.ground_truth)
    if truth.sum() > MOST_GROUND_TRUTH * count:
        truth &= draws < MOST_GROUND_TRUTH
    in_gate = ((draws < share) | truth)[groups]
    return Split(fit=np.flatnonzero(~in_gate), gate=np.flatnonzero(in_gate), share=share, groups=groups)


def gate_share(images: int) -> float:
    """The gate's share of the images (groups of look-alikes), by their number: .4 up to 100, .2 from 1,000 on."""
    progress = math.log(max(images, 1) / LARGEST_UNTIL) / math.log(SMALLEST_FROM / LARGEST_UNTIL)
    return LARGEST_SHARE + (SMALLEST_SHARE - LARGEST_SHARE) * min(1.0, max(0.0, progress))


def draw(content: str) -> float:
    """An image's fixed number in [0, 1), from its content hash; it goes to the gate where this is below the share.

    A group has the largest number of its members: a later look-alike can move it to the fit, never to the gate.
    """
    return int.from_bytes(hashlib.sha256(f"gate:{content}".encode()).digest()[:7], "big") / 2**56


def group_alike(phash: NDArray[np.uint64], content: Sequence[str]) -> Rows:
    """Groups of images that look alike, directly or through others of the group.

    A group that is too large is taken apart by the next limit of `ALIKE`; the others keep theirs.

    Args:
        phash: (N,) perceptual hashes.
        content: N content hashes; images with equal content are always in one group.

    Returns:
        (N,) int64 numbers of groups, from 0 in order of appearance.
    """
    _, first, of_row = np.unique(np.array(content, dtype=str), return_index=True, return_inverse=True)
    hashes, images = np.asarray(phash, dtype=np.uint64)[first], np.bincount(of_row)
    groups = np.zeros(len(first), dtype=np.int64)
    large = np.arange(len(first))
    for step, bits in enumerate((*ALIKE, None)):
        if not len(large):
            break
        groups[large] = step * len(groups) + (large if bits is None else _linked(hashes[large], bits))
        sizes = np.bincount(groups, weights=images)
        large = np.flatnonzero(sizes[groups] > max(SMALL_GROUP, LARGEST_GROUP * len(content)))
    _, appeared, numbers = np.unique(groups[of_row], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(appeared))[numbers]


def _linked(hashes: NDArray[np.uint64], bits: int) -> Rows:
    """(n,) a number for each hash, the same where a chain of hashes that differ in at most `bits` bits joins them."""
    from sklearn.cluster import DBSCAN

    distinct, of_row = np.unique(hashes, return_inverse=True)
    unpacked = np.unpackbits(distinct.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    # squared Euclidean distance of bits is their Hamming distance; clusters of single points are connected components
    linked: Rows = DBSCAN(eps=math.sqrt(bits + 0.5), min_samples=1, algorithm="brute").fit_predict(unpacked)
    return linked[of_row]
