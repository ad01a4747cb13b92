"""Layout of the starter's image tokens, ImageNet prior and linear probes on them.

A token is the photo's or that of a cell of a 5 x 5 grid, with these features:

    deep      1280  the encoder's last f >= 0, as sqrt(f + 0.001): evens out long tails
    middle     120  features after block 4
    early       48  features after block 2
    colour       6  mean and spread of red, green, blue (normalised pixels)

Prior: the encoder's own classifier gives probabilities of 1,000 classes on the
whole photo and on 25 parts of it. A tag takes them with weights: 1 for kinds of
it (by WordNet and by name), and a little for classes of similar description.
Its logarithm, compared with that of the reference photos (the background), is
the tag's evidence. Nothing here was fitted to labels.

Probe: a direction in the encoder's features, fitted by the build in closed
form. A tag without one gets a mean over those with a similar text by kernel
regression; tags with few training photos count less.

Shapes: B images, L tags, K = 1,000 classes, C concepts (tags with a probe), F
feature width, E label embedding width, R reference photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

IMAGE_SIZE = 260
GRID = 5
TOKENS = 1 + GRID * GRID
DEEP, MIDDLE, EARLY, COLOUR = 1280, 120, 48, 6
WIDTH = DEEP + MIDDLE + EARLY + COLOUR
ROOT_SHIFT = 1e-3

CLASSES = 1000
"""Outputs of the encoder's classifier."""
POOLINGS = 3
"""Whole photo, mean over its parts, best part."""
EPSILON = 1e-4
"""Added to probabilities before the logarithm: clamps the evidence."""
TEMPERATURE = 0.06
"""Softmax temperature of the similarity of meaning, in cosine distance."""
TEXT_SHARE = 0.2
"""Weight of all similar classes together, where a kind of the tag has 1."""
SPREAD_FLOOR = 0.15
"""Added to the spread of evidence, for a tag in no reference photo."""

KERNEL_BANDWIDTH = 0.1
"""Length scale of the kernel, in cosine distance."""
NOISE = 0.3
"""Relative noise of a probe with many photos; doubles at `PSEUDO_COUNT` photos."""
PSEUDO_COUNT = 20


@dataclass(frozen=True)
class Classifier:
    """The encoder's last layer: weight (K, 1280), bias (K,)."""

    weight: FloatArray
    bias: FloatArray

    def class_probabilities(self, tokens: FloatArray) -> FloatArray:
        """Probabilities (B, 3, K) of tokens (B, T, D): whole photo, mean and best part."""
        logits = deep_features(tokens) @ self.weight.T + self.bias
        logits -= logits.max(axis=-1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=-1, keepdims=True)
        parts = logits[:, 1:]
        return np.stack([logits[:, 0], parts.mean(axis=1), parts.max(axis=1)], axis=1)


@dataclass(frozen=True)
class PriorTags:
    """Of L tags: class weights (L, K), mean and spread (L,) of background evidence."""

    weights: FloatArray
    mean: FloatArray
    spread: FloatArray

    def scores(self, evidence: FloatArray) -> FloatArray:
        """Evidence (B, 3, K) to (B, L): 0 is the background, above 3 it grows slowly."""
        raised = (_log_evidence(evidence, self.weights) - self.mean) / (self.spread + np.float32(SPREAD_FLOOR))
        high = np.maximum(raised - 3, 0)
        return (np.minimum(raised, 3) + 2 * np.log1p(high / 2)).astype(np.float32)


def deep_features(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """The encoder's last features for its classifier: (..., WIDTH) to (..., DEEP)."""
    roots = tokens[..., :DEEP].astype(np.float32)
    return roots * roots - np.float32(ROOT_SHIFT)


def class_weights(
    embeddings: FloatArray, classes: Sequence[Sequence[int] | NDArray[np.int32]], class_embeddings: FloatArray
) -> FloatArray:
    """How much each class counts for each tag, (L, K).

    Args:
        embeddings: (L, E) label embeddings, length 1.
        classes: per tag the classes that are kinds of it, may be empty.
        class_embeddings: (K, E) embeddings of the classes' descriptions, length
            1.
    """
    weights = embeddings @ class_embeddings.T
    weights -= weights.max(axis=1, keepdims=True)
    weights /= np.float32(TEMPERATURE)
    np.exp(weights, out=weights)
    weights *= np.float32(TEXT_SHARE) / weights.sum(axis=1, keepdims=True)
    for row, numbers in enumerate(classes):
        weights[row, list(numbers)] += 1
    return weights


def background_evidence(classes: NDArray[np.int32], values: NDArray[np.float16]) -> FloatArray:
    """Evidence (R, 3, K) of reference photos, from their largest classes, (R, 3, k)."""
    dense = np.zeros((*classes.shape[:2], CLASSES), dtype=np.float32)
    np.put_along_axis(dense, classes.astype(np.int64), values.astype(np.float32), axis=2)
    return dense


def background_stats(weights: FloatArray, background: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and spread (L,) of evidence (R, 3, K) under class weights (L, K)."""
    logs = _log_evidence(background, weights)
    return logs.mean(axis=0), logs.std(axis=0)


def _log_evidence(evidence: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over poolings of log(probability + EPSILON): (B, 3, K), (L, K) to (B, L)."""
    mixed = evidence.reshape(-1, CLASSES) @ weights.T
    mixed += np.float32(EPSILON)
    np.log(mixed, out=mixed)
    return mixed.reshape(len(evidence), POOLINGS, len(weights)).mean(axis=1, dtype=np.float32)


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
        noise = NOISE * (1 + PSEUDO_COUNT / self.counts.astype(np.float64))
        return np.asarray(np.linalg.inv(kernel + np.diag(noise)), dtype=np.float64)

    def _kernel(self, embeddings: FloatArray) -> FloatArray:
        return np.asarray(np.exp((embeddings @ self.embeddings.T - 1) / KERNEL_BANDWIDTH), dtype=np.float32)

    def of_tags(self, embeddings: FloatArray, places: Sequence[int | None]) -> tuple[FloatArray, FloatArray]:
        """Weight (L, F) and bias (L,): a tag's own, or kernel regression over texts.

        Args:
            embeddings: (L, E), length 1.
            places: per tag its place among the concepts; None: it has no probe
                of its own.
        """
        shares = (self._kernel(embeddings).astype(np.float64) @ self._solver).astype(np.float32)
        weight, bias = shares @ self.weight, shares @ self.bias
        for column, place in enumerate(places):
            if place is not None:
                weight[column], bias[column] = self.weight[place], self.bias[place]
        return weight, bias
