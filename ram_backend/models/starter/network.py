"""The starter's network on onnxruntime: tagging head, linear probes, ImageNet prior.

A tag's logit is a weighted sum of three component logits from the same image tokens:

    head    the RAM-shaped tagging head: the tag's text asks the 26 tokens
    probe   a linear direction of the tag, its own or borrowed from tags of similar meaning
    prior   what ImageNet's classes say about the tag, untrained

with mixing weights of its own for a tag that training saw, and common ones for
all others (any new text included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ram_backend.errors import BundleDamaged, SettingsError
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import features_of
from ram_backend.models.label_embeddings import Entry, FloatArray, LabelEmbeddings
from ram_backend.models.starter.components import (
    GRID,
    TOKENS,
    WIDTH,
    Classifier,
    PriorTags,
    Probes,
    background_evidence,
    background_stats,
    class_weights,
    deep_features,
)
from ram_backend.onnx_export import onnx_session
from ram_backend.vocabulary.prompts import unit_rows

ENCODER, HEAD_QUERIES, HEAD = "encoder.onnx", "head_queries.onnx", "head.onnx"
CLASSIFIER, PRIOR, PROBES = "classifier.safetensors", "prior.safetensors", "probes.safetensors"
BACKGROUND = "ordinary.safetensors"
ENGINE = "onnxruntime-fp32"
COMPONENTS = ("head", "probe", "prior")

_PIXEL_BATCH = 16
_PAIRS_AT_ONCE = 40_000
CENTRE_PRIOR = 5.0
"""Fall of evidence with the squared distance from the centre."""

_NO_CLASSES: NDArray[np.int32] = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class StarterQueries:
    """What the three components need of L tags.

    Attributes:
        hidden: (L, H) head queries.
        projected: (L, H) their projection.
        probe_weight: (L, F).
        probe_bias: (L,).
        prior: class weights and what is ordinary.
        mixing: (L, 3) weight of each component, in the order of `COMPONENTS`.
    """

    hidden: FloatArray
    projected: FloatArray
    probe_weight: FloatArray
    probe_bias: FloatArray
    prior: PriorTags
    mixing: FloatArray

    def __len__(self) -> int:
        return len(self.hidden)


class StarterNetwork:
    """See `Network`. Thread-safe: nothing changes after loading."""

    side_by_side = True  # a session's calls share its threads
    token_shape = (TOKENS, WIDTH)

    def __init__(self, bundle: Bundle, *, device: str, precision: str, threads: int | None) -> None:
        """Loads an installed starter bundle: always the CPU, always fp32."""
        if device == "cuda":
            raise SettingsError("The starter runs on the CPU: set RAM_DEVICE=auto, or use another bundle.")
        if precision not in ("auto", "fp32"):
            raise SettingsError(f"The starter computes in fp32, not {precision}: set RAM_PRECISION=auto.")
        directory = bundle.path
        try:
            self.encoder_id = self.id_of(bundle)
            unseen = bundle.manifest["architecture"]["mixing"]["unseen"]
            self._unseen_mixing = np.array([unseen[name] for name in COMPONENTS], dtype=np.float32)
            self._encoder = onnx_session(directory / ENCODER, threads)
            self._head_queries = onnx_session(directory / HEAD_QUERIES, threads)
            self._head = onnx_session(directory / HEAD, threads)
            self._labels = LabelEmbeddings.open(directory)
            classifier = load_file(directory / CLASSIFIER)
            prior = load_file(directory / PRIOR)
            background = load_file(directory / BACKGROUND)
            probes = load_file(directory / PROBES)

            self.classifier = Classifier(classifier["weight"], classifier["bias"])
            self.class_embeddings = prior["class_embeddings"].astype(np.float32)
            self._prior_mean = background["mean"]
            self._prior_spread = background["spread"]
            self._background = background_evidence(prior["reference_classes"], prior["reference_values"])
            self._classes = np.split(prior["classes"], np.cumsum(prior["class_counts"])[:-1])
            self._own_mixing = probes["mixing"]
            rows = probes["rows"].tolist()
            self._probe_of = {row: place for place, row in enumerate(rows)}
            weight, texts = probes["weight"].astype(np.float32), self._labels.means(rows)
            self._probes = Probes(weight, probes["bias"], texts, probes["counts"])
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise BundleDamaged(f"{directory} can't be loaded ({error}). Remove it: it is made again.") from None

    @staticmethod
    def id_of(bundle: Bundle, *, device: str = "cpu", precision: str = "fp32") -> str:
        """Names the encoder's weights and engine."""
        return f"{bundle.manifest['architecture']['encoder'][:16]}-{ENGINE}"

    def encode(self, pixels: FloatArray) -> FloatArray:
        """(B, 3, 260, 260) to tokens (B, 26, 1454), float32."""
        parts = [np.empty((0, *self.token_shape), dtype=np.float32)]
        for start in range(0, len(pixels), _PIXEL_BATCH):
            some = np.ascontiguousarray(pixels[start : start + _PIXEL_BATCH], np.float32)
            parts += self._encoder.run(None, {"pixels": some})
        return np.concatenate(parts)

    def select(self, tags: Sequence[Entry]) -> StarterQueries:
        """Prepares L tags: rows, or text embeddings (k, 384), which are averaged."""
        embeddings = unit_rows(self._labels.means(tags))
        known = [None if isinstance(tag, np.ndarray) else int(tag) for tag in tags]
        places = [None if row is None else self._probe_of.get(row) for row in known]
        weight, bias = self._probes.of_tags(embeddings, places)
        mixing = np.empty((len(tags), len(COMPONENTS)), dtype=np.float32)
        for column, place in enumerate(places):
            mixing[column] = self._unseen_mixing if place is None else self._own_mixing[place]
        hidden, projected = self._head_queries.run(None, {"label_embeddings": embeddings})
        return StarterQueries(hidden, projected, weight, bias, self._prior(embeddings, known), mixing)

    def logits(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        """Tokens (B, 26, 1454) to logits (B, L) before calibration."""
        at_once = max(1, _PAIRS_AT_ONCE // max(1, len(queries)))
        parts = [np.empty((0, len(queries)), dtype=np.float32)]
        for start in range(0, len(tokens), at_once):
            components = self.component_logits(tokens[start : start + at_once], queries)
            parts.append((components * queries.mixing.T[:, None]).sum(axis=0))
        return np.concatenate(parts)

    def component_logits(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        """The parts of the logits before mixing: (3, B, L), ordered as `COMPONENTS`."""
        tokens = np.ascontiguousarray(tokens, dtype=np.float32)
        inputs = {"tokens": tokens, "hidden": queries.hidden, "projected": queries.projected}
        head = self._head.run(None, inputs)[0]
        probe = features_of(tokens) @ queries.probe_weight.T + queries.probe_bias
        prior = queries.prior.scores(self.classifier.class_probabilities(tokens))
        return np.stack([head, probe, prior])

    def evidence(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        """Evidence maps (B, 5, 5, L), see `Network`: probe, classes, and a centre prior."""
        cells = tokens[:, 1:]
        shares = queries.prior.weights / queries.prior.weights.sum(axis=1, keepdims=True)
        classes = (deep_features(cells) @ self.classifier.weight.T + self.classifier.bias) @ shares.T
        place = (np.arange(GRID) + 0.5) / GRID - 0.5
        centre = CENTRE_PRIOR * (place[:, None] ** 2 + place**2)
        maps = _standardised(cells @ queries.probe_weight.T) + _standardised(classes)
        return (maps.reshape(-1, GRID, GRID, len(queries)) - centre[:, :, None]).astype(np.float32)

    def _prior(self, embeddings: FloatArray, known: Sequence[int | None]) -> PriorTags:
        """Class weights, and background statistics, measured for new tags."""
        classes = [_NO_CLASSES if row is None else self._classes[row] for row in known]
        weights = class_weights(embeddings, classes, self.class_embeddings)
        rows = [0 if row is None else row for row in known]
        mean, spread = self._prior_mean[rows], self._prior_spread[rows]
        new = [place for place, row in enumerate(known) if row is None]
        if new:
            mean[new], spread[new] = background_stats(weights[new], self._background)
        return PriorTags(weights, mean, spread)


def _standardised(maps: FloatArray) -> FloatArray:
    """Maps (B, T, L) with mean 0 and spread 1 over the cells."""
    spread = maps.std(axis=1, keepdims=True) + np.float32(1e-3)
    return np.asarray((maps - maps.mean(axis=1, keepdims=True)) / spread, dtype=np.float32)
