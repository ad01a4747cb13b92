"""Training set assembly: scores of bundle and incumbent, trainers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.feedback.labels import to_matrix
from ram_backend.gate.judge import OffTargetShift, measure_shift
from ram_backend.gate.training_set import TrainingSet, folds_of
from ram_backend.images.near_duplicates import group_near_duplicates
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import cost_thresholds
from ram_backend.models.delta import Delta, features_of
from ram_backend.models.network import Network, tuned_network
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.subset import Subset, open_subset, tag_embeddings
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.training.selection import Progress, RecalibrationTrainer, RidgeTrainer, Trainer
from ram_backend.versions.directory import Version
from ram_backend.worker.training_data import EncodedImages, ProjectCorrections

FloatArray = NDArray[np.float32]
Tokens = NDArray[np.float16]

AT_ONCE = 64
"""Images that are scored at a time."""

MIN_TUNING_IMAGES = 300
"""Images from which on "auto" fine-tunes a head: with fewer the ridge is better."""

FOLDS_FILE = "folds.safetensors"
"""Of a version: its deltas without each fold, for its training images."""

LORA_RANK = 8
MAX_OFF_TARGET_IMAGES = 200
"""Most images of the project in the off-target check, evenly spread."""


@dataclass(eq=False)
class Scorer:
    """Scores L distinct tags of one bundle; `progress` gets stage, step and steps.

    Raises:
        TextEncoderUnavailable: a tag is not in the vocabulary, and the bundle
            has no text encoder at hand.
    """

    bundle: Bundle
    network: Network
    tags: Sequence[str]
    settings: Settings
    progress: Progress

    @cached_property
    def subset(self) -> Subset:
        """The tags, with the embeddings of those that the vocabulary lacks."""
        return open_subset(self.bundle, self.tags, self.settings)

    def log_odds(
        self, stage: str, tokens: Tokens, files: Mapping[str, bytes] | None = None, delta: Delta | None = None
    ) -> FloatArray:
        """Calibrated log-odds (N, L) of images with these tokens (N, T, D).

        `files` are of a version, which may have a tuned head, as is `delta`.

        Raises:
            VersionDamaged: files or delta were made for another bundle.
        """
        network = tuned_network(self.network, files or {})
        tagger = Tagger(self.bundle, network, self.subset, token_dtype=TOKEN_DTYPE, delta=delta)
        rows = np.empty((len(tokens), len(tagger.tags)), dtype=np.float32)
        for start in range(0, len(tokens), AT_ONCE):
            self.progress(stage, start, len(tokens))
            part = slice(start, start + AT_ONCE)
            rows[part] = tagger.score(tokens[part].astype(np.float32)).log_odds
        return rows

    def off_target(self, files: Mapping[str, bytes], tokens: Tokens, seed: int) -> OffTargetShift:
        """How far the tuned head of `files` moves scores of tags outside, drawn by seed.

        Images are those of the tokens (N, T, D), at most
        `MAX_OFF_TARGET_IMAGES`, and the package's photos.
        """
        from ram_backend.training.head_tuning import off_target_scores

        rows = np.linspace(0, len(tokens) - 1, min(len(tokens), MAX_OFF_TARGET_IMAGES)).astype(np.int64)
        images = np.concatenate([tokens[rows], self.photo_tokens])
        scores = off_target_scores(self.bundle, self.network, files, self.subset, images, seed)
        return measure_shift(*scores)

    @cached_property
    def photo_tokens(self) -> Tokens:
        """Tokens (P, T, D) of the photos that come with the package."""
        loader = open_image_loader(self.settings, self.bundle.preprocessing, self.network.encoder_id, cached=False)
        photos = [loader.load(path.read_bytes(), name=path.name) for path in photo_paths()]
        return np.stack(loader.encode(self.network, photos)).astype(np.float16)


def build_training_set(
    images: EncodedImages,
    scorer: Scorer,
    incumbent: Version | None,
    corrections: ProjectCorrections,
) -> TrainingSet:
    """The training set of N images and L tags; `incumbent` None: the bundle is served.

    Images that the incumbent was fitted on are read by its fit without their
    fold.

    Raises:
        VersionDamaged: the incumbent was made for another bundle.
    """
    subset, tokens = scorer.subset, images.tokens
    base = served = scorer.log_odds("scores", tokens)
    thresholds = subset.thresholds
    groups = group_near_duplicates(images.phash, images.content)
    if incumbent is not None:
        delta = incumbent.delta
        served = scorer.log_odds("scores of the version", tokens, incumbent.files, delta)
        without, seen = read_folds(incumbent.files, delta.tags, images.content)
        folds = folds_of(groups, images.content)
        for fold, each in without.items():
            rows = np.flatnonzero(seen & (folds == fold))
            served[rows] = scorer.log_odds("scores of the version", tokens[rows], delta=each)
        learned = dict(zip(delta.tags, delta.thresholds, strict=True))
        pairs = zip(subset.names, thresholds, strict=True)
        thresholds = np.array([learned.get(name, threshold) for name, threshold in pairs], dtype=np.float32)
    costs = np.array([corrections.add_costs.get(name, 1.0) for name in subset.names], dtype=np.float32)
    given = [corrections.fixed_thresholds.get(name, (np.nan, np.nan)) for name in subset.names]
    fixed, before = np.array(given, dtype=np.float32).T
    labels, weights = to_matrix(images.labels, subset.names)
    training_set = TrainingSet(
        tags=subset.names,
        features=features_of(tokens),
        tokens=tokens,
        base=base,
        incumbent=served,
        labels=labels,
        weights=weights,
        content=images.content,
        groups=groups,
        base_thresholds=subset.thresholds,
        incumbent_thresholds=np.where(np.isnan(before), cost_thresholds(thresholds, costs), before),
        add_costs=costs,
        fixed_thresholds=fixed,
        most_ticked=corrections.most_ticked,
        calibrated=subset.calibration.fitted,
        embeddings=tag_embeddings(scorer.bundle, subset),
    )
    if not subset.calibration.fitted:
        return training_set
    states = [[each.label(name).state for name in subset.names] for each in images.labels]
    people = [frozenset(corrections.annotators.get(number) for number in each.annotation_ids) for each in images.labels]
    return training_set.with_filtered_annotators(np.isin(states, ("confirmed", "removed")), people)


def trainers_for(scorer: Scorer, fit: TrainingSet, seed: int) -> list[Trainer]:
    """Recalibration, ridge, and head fine-tuning where it may be; never of the starter's.

    Raises:
        BundleDamaged: the bundle's head can't be read.
    """
    settings = scorer.settings
    trainers: list[Trainer] = [RecalibrationTrainer(), RidgeTrainer()]
    if not is_tuning_wanted(settings, len(fit)) or scorer.bundle.kind == "starter":
        return trainers
    from ram_backend.training.head_tuning import HeadTrainer

    tokens = fit.tokens
    assert tokens is not None
    trainers.append(
        HeadTrainer(
            scorer.bundle,
            scorer.subset,
            rank=LORA_RANK if settings.tuning == "low-rank" else None,
            device=settings.device,
            replay_tokens=scorer.photo_tokens,
            harmless=lambda files: scorer.off_target(files, tokens, seed).harmless,
        )
    )
    return trainers


def is_tuning_wanted(settings: Settings, images: int) -> bool:
    """Whether RAM_TUNING asks for fine-tuning; "auto": a GPU and enough images."""
    if settings.tuning != "auto":
        return settings.tuning != "off"
    if images < MIN_TUNING_IMAGES or settings.device == "cpu":
        return False
    import torch

    return torch.cuda.is_available()


def write_folds(folds: Mapping[int, Delta], content: Sequence[str]) -> dict[str, bytes]:
    """A file of a version; none where there are no folds.

    Args:
        folds: by fold, the delta that was fitted without it.
        content: sha256 of all images that the version was fitted on.
    """
    from safetensors.numpy import save

    if not folds:
        return {}
    arrays = {f"{fold}.{name}": array for fold, delta in folds.items() for name, array in delta.to_tensors().items()}
    return {FOLDS_FILE: save({**arrays, "content": _short(content)})}


def read_folds(
    files: Mapping[str, bytes], tags: Sequence[str], content: Sequence[str]
) -> tuple[dict[int, Delta], NDArray[np.bool_]]:
    """What `write_folds` wrote, and which of N images the version was fitted on.

    Args:
        files: of the version; without `FOLDS_FILE` (earlier releases, a tuned head)
            there are no folds.
        tags: of its delta.
        content: N sha256 of images.
    """
    from safetensors.numpy import load

    if FOLDS_FILE not in files:
        return {}, np.zeros(len(content), dtype=np.bool_)
    arrays, tensors = load(files[FOLDS_FILE]), defaultdict[str, dict[str, NDArray[Any]]](dict)
    seen = np.isin(_short(content), arrays.pop("content"))
    for name, array in arrays.items():
        fold, _, field = name.partition(".")
        tensors[fold][field] = array
    return {int(fold): Delta.from_tensors(tags, each) for fold, each in tensors.items()}, seen


def _short(content: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([int(each[:16], 16) for each in content], dtype=np.uint64)
