"""Scoring of a tag subset: head logits, Platt calibration, linear delta. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ram_backend.errors import VersionDamaged
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import sigmoid
from ram_backend.models.delta import Delta, FloatArray, features_of
from ram_backend.models.network import Network, Queries
from ram_backend.tagging.subset import Subset

TokenDtype = Literal["float16"]
TOKEN_DTYPE: TokenDtype = "float16"
"""Precision of cached image tokens: taggers that use the cache are made with it."""


@dataclass(frozen=True)
class TagScores:
    """What a tagger found: a row per image, a column per tag, in the order asked.

    Attributes:
        logits: (N, L) float32 of the network, before calibration and delta.
        log_odds: (N, L) float32, calibrated, with the delta; their sigmoid are
            the scores.
        scores: (N, L) float32, calibrated probabilities in [0, 1].
    """

    logits: FloatArray
    log_odds: FloatArray
    scores: FloatArray


class Tagger:
    """Scores the tags of one subset on images, with one bundle; immutable.

    Where image tokens are cached, the head sees them rounded to `token_dtype`
    on a hit and a miss alike, and `model_version` names it. Where nothing is
    cached, nothing is rounded: the logits are those of the authors' code.

    A project's version is a delta: tags that it names get its log-odds and
    thresholds, all others stay what they are without it, bit by bit.

    Args:
        bundle: whose network it is.
        network: loaded from the bundle.
        subset: the tags to score.
        token_dtype: precision of the cache in use; None: there is none.
        delta: what a version changes; None: nothing.
        version: digest of that version, part of `model_version`; None: the
            bundle's own behaviour, or a delta that is only measured and never
            served.
        base: a tagger of the same network and subset, whose precomputed queries
            are shared.

    Raises:
        VersionDamaged: the delta was made for features of another width, so for
            another bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: Network,
        subset: Subset,
        *,
        token_dtype: TokenDtype | None = None,
        delta: Delta | None = None,
        version: str | None = None,
        base: Tagger | None = None,
    ) -> None:
        self.bundle = bundle
        self.network = network
        self.subset = subset
        self.token_dtype: TokenDtype | None = token_dtype
        self.version = version
        self._delta = delta
        if delta is not None and delta.width != network.token_shape[1]:
            width = network.token_shape[1]
            raise VersionDamaged(f"A delta has {delta.width} features, this bundle's have {width}: train again.")
        row_of = {} if delta is None else {tag: row for row, tag in enumerate(delta.tags)}
        self._columns = [column for column, name in enumerate(subset.names) if name in row_of]
        self._rows = [row_of[subset.names[column]] for column in self._columns]
        self.thresholds: FloatArray = subset.thresholds.copy()
        """(L,) float32: a tag is on where its score is strictly above."""
        if delta is not None:
            self.thresholds[self._columns] = delta.thresholds[self._rows]
        self.model_version = _model_version(bundle, network, subset, token_dtype, self.thresholds, version)
        self._base = base  # stays in memory, so that the next version finds it
        self._queries: Queries = network.select(subset.entries) if base is None else base._queries

    def with_version(self, delta: Delta, version: str) -> Tagger:
        """The same tags under a version, made at once.

        Args:
            delta: the version's; tags outside the subset have no effect.
            version: its digest, part of `model_version`.

        Raises:
            VersionDamaged: the delta was made for features of another width.
        """
        base = (self.bundle, self.network, self.subset)
        return Tagger(*base, token_dtype=self.token_dtype, delta=delta, version=version, base=self)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags asked, one a column of the scores."""
        return self.subset.names

    def tag(self, images: Sequence[Image.Image]) -> TagScores:
        """Scores N decoded images of any sizes."""
        return self.score(self.encode(images))

    def encode(self, images: Sequence[Image.Image]) -> FloatArray:
        """Image tokens: (N, T, D) float32, rounded to `token_dtype`, for any subset."""
        if not images:
            return np.empty((0, *self.network.token_shape), dtype=np.float32)
        tokens = self.network.encode(np.stack([self.bundle.preprocessing(image) for image in images]))
        return tokens if self.token_dtype is None else rounded(tokens, self.token_dtype)

    def score(self, tokens: FloatArray) -> TagScores:
        """Scores images by their tokens (N, T, D), which may come from a cache."""
        if len(tokens) == 0:
            nothing = np.empty((0, len(self.tags)), dtype=np.float32)
            return TagScores(nothing, nothing, nothing)
        logits = self.network.logits(tokens, self._queries)
        log_odds = self.subset.calibration.log_odds(logits)
        if self._delta is not None:
            delta, columns, rows = self._delta, self._columns, self._rows
            learned = features_of(tokens) @ delta.weight[rows].T + delta.bias[rows]
            log_odds[:, columns] = log_odds[:, columns] * delta.base_scale[rows] + learned
        return TagScores(logits, log_odds, sigmoid(log_odds))


def rounded(tokens: FloatArray, dtype: TokenDtype) -> FloatArray:
    """Tokens rounded to that precision, clipped to its range, as float32."""
    largest = np.finfo(dtype).max
    return np.clip(tokens, -largest, largest).astype(dtype).astype(np.float32)


def _model_version(
    bundle: Bundle,
    network: Network,
    subset: Subset,
    token_dtype: TokenDtype | None,
    thresholds: FloatArray,
    version: str | None,
) -> str:
    """A name for the behaviour: same string, same scores. Made of identities only."""
    identity = {
        "bundle": bundle.digest,
        "engine": network.encoder_id,
        "tags": subset.names,
        "thresholds": [float(f"{threshold:.6g}") for threshold in thresholds],
        "text": subset.text_identity,
        "token_dtype": token_dtype,
    } | ({} if version is None else {"version": version})
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{bundle.name}-{digest[:12]}"
