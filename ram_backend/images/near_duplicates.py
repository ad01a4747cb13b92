"""Near-duplicate images, by perceptual hash."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_DUPLICATE_BITS = (8, 4, 0)
"""Bits in which perceptual hashes of near-duplicates may differ.

A group of more than `LARGEST_GROUP` of all images takes the next limit; in the
end only equal bytes count.
"""
LARGEST_GROUP, SMALL_GROUP = 0.25, 4
"""A group of `SMALL_GROUP` images is never too large."""


def group_near_duplicates(phash: NDArray[np.uint64], content: Sequence[str]) -> NDArray[np.int64]:
    """Groups of near-duplicates, directly or through others of the group.

    A group that is too large is taken apart by the next limit of
    `NEAR_DUPLICATE_BITS`; the others keep theirs.

    Args:
        phash: (N,) perceptual hashes.
        content: N content hashes; images with equal content are always in one
            group.

    Returns:
        (N,) int64 numbers of groups, from 0 in order of appearance.
    """
    _, first, of_row = np.unique(np.array(content, dtype=str), return_index=True, return_inverse=True)
    hashes = np.asarray(phash, dtype=np.uint64)[first]
    images = np.bincount(of_row)
    groups = np.zeros(len(first), dtype=np.int64)
    large = np.arange(len(first))
    for step, bits in enumerate((*NEAR_DUPLICATE_BITS, None)):
        if not len(large):
            break
        linked = large if bits is None else _linked(hashes[large], bits)
        groups[large] = step * len(groups) + linked
        sizes = np.bincount(groups, weights=images)
        large = np.flatnonzero(sizes[groups] > max(SMALL_GROUP, LARGEST_GROUP * len(content)))
    _, appeared, numbers = np.unique(groups[of_row], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(appeared))[numbers]


def _linked(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """(n,) numbers, equal along chains of hashes, each `bits` apart at most."""
    from sklearn.cluster import DBSCAN

    distinct, of_row = np.unique(hashes, return_inverse=True)
    unpacked = np.unpackbits(distinct.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    # squared distance of bits: Hamming; clusters: connected components
    clusters = DBSCAN(eps=math.sqrt(bits + 0.5), min_samples=1, algorithm="brute")
    return clusters.fit_predict(unpacked)[of_row]
