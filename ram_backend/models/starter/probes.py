"""Linear probes, and kernel regression over label embeddings for tags without one.

A probe is a direction in the encoder's features, fitted by the build in closed form. A tag without one borrows from
those with a similar text; tags with few training photos count less.

Shapes: C concepts (tags with a probe), F feature width, E label embedding width, L tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

REACH = 0.1
"""Cosine distance over which the similarity of two texts falls by e."""
DOUBT = 0.3
"""Noise of a probe with very many photos, relative to its own variance; doubles at `FEW` photos."""
FEW = 20


@dataclass(frozen=True)
class Probes:
    """Directions of C concepts.

    Attributes:
        weight: (C, F).
        bias: (C,).
        embeddings: (C, E) label embeddings of the concepts, length 1.
        counts: (C,) number of training photos that showed the concept.
    """

    weight: FloatArray
    bias: FloatArray
    embeddings: FloatArray
    counts: NDArray[np.int32]

    @cached_property
    def _solver(self) -> NDArray[np.float64]:
        kernel = self._kernel(self.embeddings).astype(np.float64)
        return np.asarray(
            np.linalg.inv(kernel + np.diag(DOUBT * (1 + FEW / self.counts.astype(np.float64)))), dtype=np.float64
        )

    def _kernel(self, embeddings: FloatArray) -> FloatArray:
        return np.asarray(np.exp((embeddings @ self.embeddings.T - 1) / REACH), dtype=np.float32)

    def of_tags(self, embeddings: FloatArray, places: Sequence[int | None]) -> tuple[FloatArray, FloatArray]:
        """Directions of L tags: a tag's own, or borrowed from concepts with a similar text.

        Args:
            embeddings: (L, E), length 1.
            places: per tag its place among the concepts; None: it has no probe of its own.

        Returns:
            weight (L, F) and bias (L,); near 0 where no concept means something similar.
        """
        shares = (self._kernel(embeddings).astype(np.float64) @ self._solver).astype(np.float32)
        weight, bias = shares @ self.weight, shares @ self.bias
        for column, place in enumerate(places):
            if place is not None:
                weight[column], bias[column] = self.weight[place], self.bias[place]
        return weight, bias
