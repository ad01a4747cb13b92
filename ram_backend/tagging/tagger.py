"""Images in, scores per tag out; nothing is read or written here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.models import Bundle, Network
from ram_backend.tagging.subset import Subset

TokenDtype = Literal["float16"]
"""Precision that image tokens are cached as."""


@dataclass(frozen=True)
class TagScores:
    """What a tagger found: a row per image, a column per tag asked, in the order asked.

    Attributes:
        logits: (N, L) float32, before calibration.
        scores: (N, L) float32, calibrated probabilities in [0, 1].
    """

    logits: NDArray[np.float32]
    scores: NDArray[np.float32]


class Tagger:
    """Scores the tags of one subset on images, with one bundle.

    Immutable: another subset or bundle is another tagger. Taggers of the same network share its memory; what is
    precomputed for the subset (label queries) belongs to the tagger.

    Where image tokens are cached, `token_dtype` is what they are cached as: `encode` rounds to it, so that the head
    sees the same numbers whether they come from the network or from the cache. Logits then differ from those of the
    unrounded tokens by the rounding, so `token_dtype` is part of `model_version`: same string, same scores. Where
    nothing is cached, as in `ram-backend tag`, nothing is rounded, and the logits are those of the authors' code.

    Args:
        bundle: whose network it is.
        network: loaded from the bundle.
        subset: the tags to score.
        token_dtype: precision of the cache in use; None: there is none.
    """

    def __init__(
        self, bundle: Bundle, network: Network, subset: Subset, *, token_dtype: TokenDtype | None = None
    ) -> None:
        self.bundle = bundle
        self.network = network
        self.subset = subset
        self.token_dtype: TokenDtype | None = token_dtype
        self.model_version = _model_version(bundle, network, subset, token_dtype)
        self._queries = network.select(subset.entries)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags asked, one a column of the scores."""
        return self.subset.names

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """(L,) float32: a tag is on where its score is strictly above."""
        return self.subset.thresholds

    def tag(self, images: Sequence[Image.Image]) -> TagScores:
        """Scores decoded images.

        Args:
            images: N RGB images of any sizes, decoded as the bundle's preprocessing wants them.

        Returns:
            Logits and scores of N images and L tags.
        """
        return self.score(self.encode(images))

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Image tokens: (N, T, D) float32, rounded to `token_dtype`, the same whatever the subset is."""
        if not images:
            return np.empty((0, *self.network.token_shape), dtype=np.float32)
        tokens = self.network.encode(np.stack([self.bundle.preprocessing(image) for image in images]))
        return tokens if self.token_dtype is None else rounded(tokens, self.token_dtype)

    def score(self, tokens: NDArray[np.float32]) -> TagScores:
        """Scores images by their tokens (N, T, D), which may come from a cache."""
        if len(tokens) == 0:
            nothing = np.empty((0, len(self.tags)), dtype=np.float32)
            return TagScores(logits=nothing, scores=nothing)
        logits = self.network.logits(tokens, self._queries)
        return TagScores(logits=logits, scores=self.subset.calibration.scores(logits))


def rounded(tokens: NDArray[np.float32], dtype: TokenDtype) -> NDArray[np.float32]:
    """Tokens of any shape, each the nearest number of that precision, as float32; too large ones become the largest."""
    largest = np.finfo(dtype).max
    return np.clip(tokens, -largest, largest).astype(dtype).astype(np.float32)


def _model_version(bundle: Bundle, network: Network, subset: Subset, token_dtype: TokenDtype | None) -> str:
    """A name for the behaviour: same string, same scores. Made of identities only, never of computed numbers."""
    identity = {
        "bundle": bundle.digest,
        "engine": network.encoder_id,
        "tags": subset.names,
        "thresholds": [float(f"{threshold:.6g}") for threshold in subset.thresholds],
        "text": subset.text_identity,
        "token_dtype": token_dtype,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{bundle.name}-{digest[:12]}"
