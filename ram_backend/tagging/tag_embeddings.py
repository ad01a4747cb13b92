"""Text embeddings of a subset's tags, for comparing tags by meaning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.bundle import Bundle
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.tagging.subset import Subset


def tag_embeddings(bundle: Bundle, subset: Subset) -> NDArray[np.float32] | None:
    """Text embeddings (L, E) float32 of length 1, one per tag of the subset (the mean where a tag has several).

    Returns:
        None where the bundle learned its tags without a text encoder: its label embeddings are no texts.

    Raises:
        BundleDamaged: the bundle's label embeddings can't be read.
    """
    if bundle.text_encoder is None:
        return None
    labels = LabelEmbeddings.open(bundle.path)
    rows = np.stack(
        [
            (labels.of(entry) if isinstance(entry, int | np.integer) else np.asarray(entry)).mean(axis=0)
            for entry in subset.entries
        ]
    )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
