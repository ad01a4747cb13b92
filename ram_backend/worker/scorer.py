"""Scores of corrected images under bundle, version and candidate: the training set, the trainers, the gate's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.feedback.labels import to_matrix
from ram_backend.gate.folds import Split
from ram_backend.gate.off_target import OffTargetScores, measure_shift
from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import Delta, features_of
from ram_backend.models.network import Network
from ram_backend.models.tuned import has_tuned_head, tuned_network
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import ImageLoader
from ram_backend.tagging.subset import Subset, resolve_subset, tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.training.selection import Candidate, Progress, RidgeTrainer, Trainer
from ram_backend.versions.directory import Version
from ram_backend.worker.training_data import EncodedImages

FloatArray = NDArray[np.float32]
Tokens = NDArray[np.float16]

AT_ONCE = 64
"""Images that are scored at a time."""

MIN_TUNING_IMAGES = 300
"""Images from which on "auto" fine-tunes a head where there is a GPU: with fewer, the ridge alone is better."""

LORA_RANK = 8
MAX_OFF_TARGET_IMAGES = 200
"""Most images of the project in the off-target check, evenly spread."""


class Scorer:
    """Scores tags of one bundle.

    Args:
        bundle: the base model.
        network: loaded from it.
        tags: L distinct texts.
        settings: of the worker.
        progress: called with stage, step and steps.

    Raises:
        TextEncoderUnavailable: a tag is not in the vocabulary, and the bundle has no text encoder at hand.
    """

    def __init__(
        self, bundle: Bundle, network: Network, tags: Sequence[str], settings: Settings, progress: Progress
    ) -> None:
        self.bundle = bundle
        self.network = network
        self.settings = settings
        self.progress = progress
        self.subset = _subset(bundle, tags, settings)

    def log_odds(
        self, stage: str, tokens: Tokens, files: Mapping[str, bytes] | None = None, delta: Delta | None = None
    ) -> FloatArray:
        """Calibrated log-odds (N, L) of images with these tokens (N, T, D).

        Args:
            stage: for the progress.
            tokens: (N, T, D).
            files: of a version, which may have a tuned head; None: the bundle's head.
            delta: of a version; None: none.

        Raises:
            VersionDamaged: files or delta were made for another bundle.
        """
        network = tuned_network(self.network, files) if files and has_tuned_head(files) else self.network
        tagger = Tagger(self.bundle, network, self.subset, token_dtype=TOKEN_DTYPE, delta=delta)
        rows = np.empty((len(tokens), len(tagger.tags)), dtype=np.float32)
        for start in range(0, len(tokens), AT_ONCE):
            self.progress(stage, start, len(tokens))
            part = slice(start, start + AT_ONCE)
            rows[part] = tagger.score(tokens[part].astype(np.float32)).log_odds
        return rows

    def off_target(self, files: Mapping[str, bytes], tokens: Tokens, seed: int) -> OffTargetScores:
        """Scores of tags outside the project, drawn by seed, under the bundle's head and the tuned one of `files`.

        Images are those of the tokens (N, T, D), at most `MAX_OFF_TARGET_IMAGES`, and the package's photos.
        """
        from ram_backend.training.head_tuning import off_target_scores

        rows = np.linspace(0, len(tokens) - 1, min(len(tokens), MAX_OFF_TARGET_IMAGES)).astype(np.int64)
        images = np.concatenate([tokens[rows], self.photo_tokens])
        return off_target_scores(self.bundle, self.network, files, self.subset, images, seed)

    @cached_property
    def photo_tokens(self) -> Tokens:
        """Tokens (P, T, D) of the photos that come with the package."""
        settings, identity = self.settings, (self.bundle.preprocessing, self.network.encoder_id, None)
        loader = ImageLoader(*identity, max_pixels=settings.max_image_pixels, max_bytes=settings.max_image_bytes)
        photos = [loader.load(path.read_bytes(), name=path.name) for path in photo_paths()]
        return np.stack(loader.encode(self.network, photos)).astype(np.float16)


def build_training_set(images: EncodedImages, scorer: Scorer, incumbent: Version | None) -> TrainingSet:
    """The training set of N images and L tags; `incumbent` is the served version, None the bundle itself.

    Raises:
        VersionDamaged: the incumbent was made for another bundle.
    """
    subset, tokens = scorer.subset, images.tokens
    base = served = scorer.log_odds("scores", tokens)
    if incumbent is not None:
        served = scorer.log_odds("scores of the version", tokens, incumbent.files, incumbent.delta)
    labels, weights = to_matrix(images.labels, subset.names)
    return TrainingSet(
        tags=subset.names,
        features=features_of(tokens),
        tokens=tokens,
        base=base,
        incumbent=served,
        labels=labels,
        weights=weights,
        content=images.content,
        phash=images.phash,
        ground_truth=np.array([each.ground_truth for each in images.labels], dtype=np.bool_),
        base_thresholds=subset.thresholds,
        embeddings=tag_embeddings(scorer.bundle, subset),
    )


def trainers_for(scorer: Scorer, fit: TrainingSet, seed: int) -> list[Trainer]:
    """The ridge, and head fine-tuning where the settings and the machine allow it; never of the starter's head.

    Raises:
        BundleDamaged: the bundle's head can't be read.
    """
    settings = scorer.settings
    trainers: list[Trainer] = [RidgeTrainer()]
    if not is_tuning_wanted(settings, len(fit)) or scorer.bundle.kind == "starter":
        return trainers
    from ram_backend.training.head_tuning import HeadTrainer, TuningOptions

    tokens = fit.tokens
    assert tokens is not None
    trainers.append(
        HeadTrainer(
            scorer.bundle,
            scorer.subset,
            TuningOptions(rank=LORA_RANK if settings.tuning == "low-rank" else None, device=settings.device),
            replay_tokens=scorer.photo_tokens,
            harmless=lambda files: measure_shift(scorer.off_target(files, tokens, seed)).harmless,
        )
    )
    return trainers


def is_tuning_wanted(settings: Settings, images: int) -> bool:
    """Whether RAM_TUNING asks for head fine-tuning, or leaves it to this machine and the number of images ("auto")."""
    if settings.tuning != "auto":
        return settings.tuning != "off"
    if images < MIN_TUNING_IMAGES or settings.device == "cpu":
        return False
    import torch

    return torch.cuda.is_available()


def gate_scores(
    candidate: Candidate, scorer: Scorer, training_set: TrainingSet, parts: Split, seed: int
) -> tuple[FloatArray, OffTargetScores | None]:
    """A candidate's calibrated log-odds (len(parts.gate), L) on the gate's images, and its scores of other tags.

    The latter are None where the candidate can't change them: where it has no tuned head.
    """
    gate = training_set.take(parts.gate)
    if not candidate.files:
        return candidate.logits(gate.base, gate.features), None
    assert training_set.tokens is not None
    assert gate.tokens is not None
    z = scorer.log_odds("gate", gate.tokens, candidate.files)
    return candidate.logits(z, gate.features), scorer.off_target(candidate.files, training_set.tokens, seed)


def _subset(bundle: Bundle, tags: Sequence[str], settings: Settings) -> Subset:
    encoder = bundle.text_encoder
    if encoder is None or all(row is not None for row in bundle.vocabulary.resolve(tags)):
        return resolve_subset(bundle, tags)
    from ram_backend.vocabulary.embeddings import open_text_encoder

    return resolve_subset(bundle, tags, open_text_encoder(encoder, settings))
