"""Cross-fitting folds of corrected images, by content hash.

The fold of an image follows from its content alone: it is the same in every
round, and a version can be read on its own training images by the fit that left
their fold out. A later near-duplicate may move a group to another fold: the
incumbent then looks better than it is, and a successor needs more, never less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
Rows = NDArray[np.int64]


def folds_of(groups: Rows, content: Sequence[str]) -> Rows:
    """The fold of each image, in [0, `FOLDS`).

    Args:
        groups: (N,) from `group_near_duplicates`.
        content: N content hashes; a group's fold follows from the first of its
            members in alphabetical order.
    """
    first: dict[int, str] = {}
    for group, each in zip(groups.tolist(), content, strict=True):
        first[group] = min(first.get(group, each), each)
    digests = {group: hashlib.sha256(f"fold:{each}".encode()).digest() for group, each in first.items()}
    return np.array([digests[group][0] % FOLDS for group in groups.tolist()], dtype=np.int64)
