"""Layout of the starter's image tokens: a global token, then a 5 x 5 grid, each with deep and shallow features.

deep      1280  the encoder's last features f >= 0, stored as sqrt(f + 0.001): evens out their long tails
middle     120  features after block 4
early       48  features after block 2
colour       6  mean and spread of red, green, blue (normalised pixels)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 260
GRID = 5
TOKENS = 1 + GRID * GRID
DEEP, MIDDLE, EARLY, COLOUR = 1280, 120, 48, 6
WIDTH = DEEP + MIDDLE + EARLY + COLOUR
ROOT_SHIFT = 1e-3


def pooling_matrix(size: int, cells: int) -> NDArray[np.float32]:
    """Averages a size x size map into cells x cells overlapping windows, as adaptive average pooling does.

    Returns:
        (cells * cells, size * size) float32, rows sum to 1.
    """
    line = np.zeros((cells, size), dtype=np.float32)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        line[cell, start:stop] = 1 / (stop - start)
    square = np.einsum("ia,jb->ijab", line, line)
    return np.ascontiguousarray(square.reshape(cells * cells, size * size))


def deep_features(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """The encoder's last features as its classifier takes them: tokens (..., WIDTH) to (..., DEEP)."""
    roots = tokens[..., :DEEP].astype(np.float32)
    return roots * roots - np.float32(ROOT_SHIFT)


def summary_features(tokens: NDArray[np.float32] | NDArray[np.float16]) -> NDArray[np.float32]:
    """One row per image for linear probes: the global token, (N, TOKENS, WIDTH) to (N, WIDTH)."""
    return np.ascontiguousarray(tokens[:, 0, :], dtype=np.float32)
