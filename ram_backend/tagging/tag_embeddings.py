"""Text embeddings of a subset's tags, for comparing tags by meaning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.bundle import Bundle
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.tagging.subset import Subset
from ram_backend.vocabulary.prompts import unit_rows


def tag_embeddings(bundle: Bundle, subset: Subset) -> NDArray[np.float32] | None:
    """Text embeddings (L, E) float32 of length 1, one per tag of the subset (the mean where a tag has several).

    Returns:
        None where the bundle learned its tags without a text encoder: its label embeddings are no texts.

    Raises:
        BundleDamaged: the bundle's label embeddings can't be read.
    """
    if bundle.text_encoder is None:
        return None
    return unit_rows(LabelEmbeddings.open(bundle.path).means(subset.entries))
