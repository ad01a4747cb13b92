"""Which corrected images a candidate is fitted on, and which it is judged by.

The side of an image follows from its content alone, so it is the same in every round, on every machine and in whatever
order corrections arrive. Images that look alike form a group and stay together. From round to round images only move
from the gate to the fit: the share of the gate shrinks as corrections come in, and the gate of a smaller share is part
of the gate of a larger one. So what a served version was fitted on doesn't come back as evidence about its successor.

Two rare things move an image from fit to gate: it is marked as ground truth, or a look-alike is withdrawn. Both can
only make the incumbent, which was fitted on it, look better than it is: a successor then needs more, never less.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.images.hashing import BITS
from ram_backend.training.material import Material

LARGEST_SHARE, LARGEST_UNTIL = 0.4, 100
"""The gate's share of the images, up to this many: fewer than 40 images can hardly show a gain of a candidate."""
SMALLEST_SHARE, SMALLEST_FROM = 0.2, 1000
"""The gate's share from this many images on; between the two it falls with the logarithm of the number."""
ALIKE = (8, 4, 0)
"""Bits in which perceptual hashes of near-duplicates may differ. The next limit is taken where one makes a group of
more than `LARGEST_GROUP` of all images (photos of one fixed camera, scanned forms); in the end only equal bytes
count."""
LARGEST_GROUP, SMALL_GROUP = 0.25, 4
"""A group of `SMALL_GROUP` images is never too large."""
MOST_GROUND_TRUTH = 0.5
"""Where more than this share of the groups is ground truth, only those that draw below it go to the gate: something has
to be left to learn from."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of rows that make up the whole material.

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


def split(material: Material, *, at_most: float | None = None) -> Split:
    """Parts the material into fit and gate.

    Args:
        material: content hashes, perceptual hashes and ground-truth marks are looked at, labels and scores are not.
        at_most: the share of the round that the served version comes from; the gate is never larger than that.

    Returns:
        The parts. Images marked as ground truth are in the gate, together with their look-alikes.

    Raises:
        InputError: `at_most` is not in (0, 1].
    """
    if at_most is not None and not 0 < at_most <= 1:
        raise InputError(f"The largest allowed share of the gate is {at_most}: it has to be above 0 and at most 1.")
    groups = group_alike(material.phash, material.content)
    count = int(groups.max()) + 1 if len(groups) else 0
    share = gate_share(count)
    share = share if at_most is None else min(share, at_most)
    draws = np.zeros(count)
    np.maximum.at(draws, groups, [draw(content) for content in material.content])
    truth = np.zeros(count, dtype=np.bool_)
    np.logical_or.at(truth, groups, material.ground_truth)
    if truth.sum() > MOST_GROUND_TRUTH * count:
        truth &= draws < MOST_GROUND_TRUTH
    in_gate = ((draws < share) | truth)[groups]
    return Split(fit=np.flatnonzero(~in_gate), gate=np.flatnonzero(in_gate), share=share, groups=groups)


def gate_share(images: int) -> float:
    """The gate's share of so many images (groups of look-alikes): .4 up to 100, .2 from 1,000 on."""
    progress = math.log(max(images, 1) / LARGEST_UNTIL) / math.log(SMALLEST_FROM / LARGEST_UNTIL)
    return LARGEST_SHARE + (SMALLEST_SHARE - LARGEST_SHARE) * min(1.0, max(0.0, progress))


def draw(content: str) -> float:
    """An image's fixed lot in [0, 1), from its content hash; it goes to the gate where this is below the share.

    A group has the largest lot of its members: a look-alike that comes later can move it to the fit, never to the gate.
    """
    return int.from_bytes(hashlib.sha256(f"gate:{content}".encode()).digest()[:7], "big") / 2**56


def group_alike(phash: NDArray[np.uint64], content: Sequence[str]) -> Rows:
    """Groups of images that look alike, directly or through others of the group.

    Args:
        phash: (N,) perceptual hashes.
        content: N content hashes; images with equal content are always in one group.

    Returns:
        (N,) int64 numbers of groups, from 0 in order of appearance.
    """
    same_content: dict[str, int] = {}
    first = np.array([same_content.setdefault(text, row) for row, text in enumerate(content)], dtype=np.int64)
    hashes, of_row = np.unique(np.asarray(phash, dtype=np.uint64), return_inverse=True)
    for bits in ALIKE:
        parents = np.arange(len(hashes))
        for one, other in _close_pairs(hashes, bits):
            _join(parents, one, other)
        roots = np.array([_root(parents, place) for place in range(len(hashes))], dtype=np.int64)
        groups = _merged(roots[of_row.ravel()], first)
        if not len(groups) or np.bincount(groups).max() <= max(SMALL_GROUP, LARGEST_GROUP * len(groups)):
            return groups
    return _merged(np.arange(len(first)), first)


def _merged(by_look: Rows, first: Rows) -> Rows:
    """Groups by look, joined where members share their content."""
    parents = np.arange(int(by_look.max()) + 1 if len(by_look) else 0)
    for row, original in enumerate(first):
        _join(parents, int(by_look[row]), int(by_look[original]))
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(_root(parents, int(group)), len(numbers)) for group in by_look], dtype=np.int64)


def _close_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of places whose hashes differ in at most so many bits.

    Cut into bits + 1 bands, two such hashes agree in at least one of them: only hashes that share a band are compared.
    """
    edges = np.linspace(0, BITS, bits + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        if high - low == BITS:
            return  # distinct hashes differ in at least one bit
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for place, one in enumerate(same[:-1]):
                rest = same[place + 1 :]
                for other in rest[_count_bits(hashes[rest] ^ hashes[one]) <= bits]:
                    yield int(one), int(other)


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) number of set bits."""
    return np.unpackbits(values.view(np.uint8).reshape(len(values), 8), axis=1).sum(axis=1, dtype=np.int64)


def _root(parents: Rows, place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = int(parents[place])
    return place


def _join(parents: Rows, one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
