"""Folds: stable, near-duplicates together."""

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.training_set import FOLDS, folds_of
from ram_backend.images.near_duplicates import group_near_duplicates

PHASH = np.random.default_rng(3).integers(0, 2**64, 4000, dtype=np.uint64)
CONTENT = tuple(f"{number:064x}" for number in range(4000))


def folds(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    content = [CONTENT[row] for row in rows]
    return folds_of(group_near_duplicates(PHASH[rows], content), content)


def test_the_fold_of_an_image_depends_on_nothing_but_the_image() -> None:
    order = np.random.default_rng(0).permutation(1000)
    straight = folds(np.arange(1000))
    assert np.array_equal(folds(order), straight[order])
    assert np.array_equal(folds(np.arange(300)), straight[:300])
    assert np.bincount(straight, minlength=FOLDS).min() > 150
    in_groups = folds_of(np.arange(600) % 300, CONTENT[:600])
    assert np.array_equal(in_groups[:300], in_groups[300:]), "near-duplicates share a fold"
