"""Protocol of a network, whatever engine runs it: encode images, select tags, compute logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Queries(Protocol):
    """What a network has precomputed for L chosen tags; opaque, and only good for the network that made it."""

    def __len__(self) -> int: ...


class Network(Protocol):
    """An encoder and a tagging head.

    Attributes:
        encoder_id: names weights, engine and precision: equal ids give equal tokens. Part of cache keys.
        side_by_side: whether two threads that encode at once get more done than one; if not, the engine uses all its
            threads for each call.
        token_shape: (T, D), number and width of an image's tokens.
    """

    encoder_id: str
    side_by_side: bool
    token_shape: tuple[int, int]

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels (B, 3, S, S) from the bundle's preprocessing to tokens (B, T, D), both float32."""

    def select(self, tags: Sequence[int | NDArray[np.float32]]) -> Queries:
        """Precomputes what the head needs to know about L tags.

        Args:
            tags: per tag its row in the bundle's vocabulary, or for a new tag its text embeddings (k, d) float32.

        Raises:
            TextEncoderUnavailable: a new tag, and the network learned its tags without a text encoder.
            VocabularyError: a row outside the vocabulary, or an embedding of another width.
        """

    def logits(self, tokens: NDArray[np.float32], queries: Queries) -> NDArray[np.float32]:
        """Logits (B, L) float32 before calibration; a tag's logit doesn't depend on the other tags chosen."""
