"""The starter's network on onnxruntime: tagging head, linear probes and an ImageNet prior, mixed per tag.

A tag's logit is a weighted sum of three component logits from the same image tokens:

    head    the RAM-shaped tagging head: the tag's text asks the 26 tokens
    probe   a linear direction of the tag, its own or borrowed from tags of similar meaning
    prior   what ImageNet's classes say about the tag, untrained

with mixing weights of its own for a tag that training saw, and common ones for all others (any new text included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged, SettingsError, VocabularyError
from ram_backend.models.bundle import Bundle
from ram_backend.models.label_embeddings import LabelEmbeddings, map_tensors
from ram_backend.models.starter.layout import TOKENS, WIDTH, summary_features
from ram_backend.models.starter.prior import Classifier, PriorTags, Reference, background_stats, class_weights
from ram_backend.models.starter.probes import Probes

FloatArray = NDArray[np.float32]

ENCODER, HEAD_QUERIES, HEAD = "encoder.onnx", "head_queries.onnx", "head.onnx"
CLASSIFIER, PRIOR, PROBES = "classifier.safetensors", "prior.safetensors", "probes.safetensors"
BACKGROUND = "ordinary.safetensors"
ENGINE = "onnxruntime-fp32"
COMPONENTS = ("head", "probe", "prior")

_PIXEL_BATCH = 16
_PAIRS_AT_ONCE = 40_000
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

    def __init__(self, directory: Path, architecture: dict[str, Any], *, threads: int | None = None) -> None:
        """Loads the files of a starter bundle.

        Args:
            directory: the bundle's.
            architecture: as in its bundle.json: "encoder" (digest of the weights) and "mixing".
            threads: CPU threads of the engine; None: its default.

        Raises:
            BundleDamaged: a file is missing or malformed.
        """
        self.directory = directory
        self._threads = threads
        try:
            self.encoder_id = encoder_id(architecture)
            unseen = architecture["mixing"]["unseen"]
            self._unseen_mixing = np.array([unseen[name] for name in COMPONENTS], dtype=np.float32)
            self._encoder = _session(directory / ENCODER, threads)
            self._head_queries = _session(directory / HEAD_QUERIES, threads)
            self._head = _session(directory / HEAD, threads)
            classifier = map_tensors(directory / CLASSIFIER)
            prior = map_tensors(directory / PRIOR)
            probes = map_tensors(directory / PROBES)
            self._labels = LabelEmbeddings.open(directory)
            self._classifier = Classifier(np.array(classifier["weight"]), np.array(classifier["bias"]))
            self._class_embeddings = np.array(prior["class_embeddings"], dtype=np.float32)
            ordinary = map_tensors(directory / BACKGROUND)
            self._prior_mean, self._prior_spread = np.array(ordinary["mean"]), np.array(ordinary["spread"])
            self._reference = Reference(np.array(prior["reference_classes"]), np.array(prior["reference_values"]))
            self._classes = np.split(np.array(prior["classes"]), np.cumsum(prior["class_counts"])[:-1])
            rows = np.array(probes["rows"])
            self._own_mixing = np.array(probes["mixing"])
            self._probe_of = {int(row): place for place, row in enumerate(rows)}
            self._probes = Probes(
                np.array(probes["weight"], dtype=np.float32),
                np.array(probes["bias"]),
                self._labels.gather(rows.tolist()),
                np.array(probes["counts"]),
            )
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BundleDamaged(
                f"Starter bundle {directory} can't be loaded ({error}). Remove that directory: it is made again."
            ) from None

    def encode(self, pixels: FloatArray) -> FloatArray:
        """(B, 3, 260, 260) to tokens (B, 26, 1454), float32."""
        if len(pixels) == 0:
            return np.empty((0, *self.token_shape), dtype=np.float32)
        parts = [
            self._encoder.run(None, {"pixels": np.ascontiguousarray(pixels[start : start + _PIXEL_BATCH], np.float32)})[
                0
            ]
            for start in range(0, len(pixels), _PIXEL_BATCH)
        ]
        return np.concatenate(parts)

    def select(self, tags: Sequence[int | NDArray[np.float32]]) -> StarterQueries:
        """Prepares L tags: rows of the vocabulary, or text embeddings (k, 384) whose mean stands for a new tag."""
        embeddings = self._embeddings(tags)
        known = [int(tag) if isinstance(tag, int | np.integer) else None for tag in tags]
        prior = self._prior(embeddings, known)
        weight, bias = self._probes.borrowed(embeddings)
        mixing = np.empty((len(tags), len(COMPONENTS)), dtype=np.float32)
        for place, row in enumerate(known):
            own = None if row is None else self._probe_of.get(row)
            mixing[place] = self._unseen_mixing if own is None else self._own_mixing[own]
            if own is not None:
                weight[place], bias[place] = self._probes.weight[own], self._probes.bias[own]
        hidden, projected = self._head_queries.run(None, {"label_embeddings": embeddings})
        return StarterQueries(hidden, projected, weight, bias, prior, mixing)

    def logits(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        """Tokens (B, 26, 1454) to logits (B, L) before calibration."""
        at_once = max(1, _PAIRS_AT_ONCE // max(1, len(queries)))
        parts = [self._logits(tokens[start : start + at_once], queries) for start in range(0, len(tokens), at_once)]
        return np.concatenate(parts) if parts else np.empty((0, len(queries)), dtype=np.float32)

    def component_logits(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        """The three parts of the logits before mixing: (3, B, L), in the order of `COMPONENTS`."""
        tokens = np.ascontiguousarray(tokens, dtype=np.float32)
        head = self._head.run(None, {"tokens": tokens, "hidden": queries.hidden, "projected": queries.projected})[0]
        probe = summary_features(tokens) @ queries.probe_weight.T + queries.probe_bias
        prior = queries.prior.scores(self._classifier.class_probabilities(tokens))
        return np.stack([head, probe, prior])

    def _logits(self, tokens: FloatArray, queries: StarterQueries) -> FloatArray:
        head, probe, prior = self.component_logits(tokens, queries)
        mixing = queries.mixing
        return head * mixing[:, 0] + probe * mixing[:, 1] + prior * mixing[:, 2]

    def _prior(self, embeddings: FloatArray, known: Sequence[int | None]) -> PriorTags:
        """Class weights of all tags; what is ordinary is looked up for known tags and measured for new ones."""
        classes = [_NO_CLASSES if row is None else self._classes[row] for row in known]
        weights = class_weights(embeddings, classes, self._class_embeddings)
        rows = [0 if row is None else row for row in known]
        mean, spread = self._prior_mean[rows], self._prior_spread[rows]
        new = [place for place, row in enumerate(known) if row is None]
        if new:
            mean[new], spread[new] = background_stats(weights[new], self._reference)
        return PriorTags(weights, mean, spread)

    def _embeddings(self, tags: Sequence[int | NDArray[np.float32]]) -> FloatArray:
        rows = np.empty((len(tags), self._labels.width), dtype=np.float32)
        known = [place for place, tag in enumerate(tags) if isinstance(tag, int | np.integer)]
        numbers = np.array([int(tags[place]) for place in known], dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= len(self._labels))]
        if len(outside):
            raise VocabularyError(
                f"There is no tag {outside[0]}: the vocabulary has the tags 0 to {len(self._labels) - 1}."
            )
        rows[known] = self._labels.gather(numbers.tolist())
        for place, tag in enumerate(tags):
            if isinstance(tag, int | np.integer):
                continue
            if np.ndim(tag) != 2 or tag.shape[1] != self._labels.width or len(tag) == 0:
                raise VocabularyError(
                    f"A new tag has embeddings of shape {np.shape(tag)}; the starter takes (k, {self._labels.width})."
                )
            rows[place] = tag.mean(axis=0)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))


def encoder_id(architecture: Mapping[str, Any]) -> str:
    """Names the encoder's weights and engine; `architecture` as in bundle.json."""
    return f"{architecture['encoder'][:16]}-{ENGINE}"


def load_starter_network(
    bundle: Bundle, *, device: str = "auto", precision: str = "auto", threads: int | None = None
) -> StarterNetwork:
    """Loads the network of an installed starter bundle: always the CPU, always fp32.

    Raises:
        SettingsError: another device or precision was asked for.
    """
    if device == "cuda":
        raise SettingsError("The starter runs on the CPU: set RAM_DEVICE=auto, or choose another bundle for the GPU.")
    if precision not in ("auto", "fp32"):
        raise SettingsError(f"The starter computes in fp32, not {precision}: set RAM_PRECISION=auto.")
    return StarterNetwork(bundle.path, dict(bundle.manifest["architecture"]), threads=threads)


def _session(source: Path | bytes, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    model = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        what = str(error).splitlines()[0][:160]
        if isinstance(source, bytes):
            raise BundleDamaged(f"A tagging head that was tuned is no head for onnxruntime ({what}).") from None
        raise BundleDamaged(
            f"{source} is damaged ({what}): remove {source.parent}, it installs itself again."
        ) from None
