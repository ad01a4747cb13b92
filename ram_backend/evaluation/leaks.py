"""Leaks: test images that a model has learned from, by bytes or hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.images.near_duplicates import NEAR_DUPLICATE_BITS
from ram_backend.models.bundle import TRAINING_IMAGES, Bundle
from ram_backend.models.starter.install import PACKAGED, starter_digest

NEAR_BITS = NEAR_DUPLICATE_BITS[0]
"""Bits in which perceptual hashes of near-duplicates may differ."""
SAME, NEAR = "same file", "near-duplicate"
_AT_ONCE = 1000


@dataclass(frozen=True)
class TrainingImages:
    """Images that a model has learned from: sha256 in hex and perceptual hash."""

    hashes: frozenset[tuple[str, int]]

    def leaks(self, sha256: Sequence[str], phash: NDArray[np.uint64]) -> dict[int, str]:
        """Which of N images these are: their rows, each with `SAME` or `NEAR`.

        Images of a single colour (hash 0) are no near-duplicates of each other.

        Args:
            sha256: N, in hex.
            phash: (N,).
        """
        same = {each for each, _ in self.hashes}
        trained = _signs(np.array(sorted({each for _, each in self.hashes} - {0}), dtype=np.uint64))
        found: dict[int, str] = {}
        for start in range(0, len(phash), _AT_ONCE):
            likeness = _signs(phash[start : start + _AT_ONCE]) @ trained.T  # 64 - 2 x Hamming distance
            near = (likeness >= 64 - 2 * NEAR_BITS).any(axis=1) & (phash[start : start + _AT_ONCE] != 0)
            found |= dict.fromkeys((start + np.flatnonzero(near)).tolist(), NEAR)
        return found | {row: SAME for row, each in enumerate(sha256) if each in same}


def bundle_training_images(bundle: Bundle) -> TrainingImages | None:
    """The images that a bundle lists as its training data; None: it lists none."""
    folder = bundle.path
    if not (folder / TRAINING_IMAGES).is_file():
        if bundle.kind != "starter" or bundle.digest != starter_digest():
            return None
        folder = PACKAGED  # installed before bundles held the list
    lines = [line.partition(" ") for line in (folder / TRAINING_IMAGES).read_text(encoding="utf-8").splitlines()]
    return TrainingImages(frozenset((sha256, int(phash or "0", 16)) for sha256, _, phash in lines))


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """(N, 64) of -1 and 1."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.astype(np.float32) * 2 - 1
