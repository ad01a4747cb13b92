"""Trainers that compete for a project's candidate, and the off-target scores of a fine-tuned head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.folds import Split
from ram_backend.gate.off_target import OffTargetScores, measure_shift
from ram_backend.gate.training_set import TrainingSet
from ram_backend.settings import Settings
from ram_backend.training.selection import Candidate, RidgeTrainer, Trainer
from ram_backend.worker.training_data import Scorer

FloatArray = NDArray[np.float32]
Tokens = NDArray[np.float16]

MIN_TUNING_IMAGES = 300
"""Images from which on "auto" fine-tunes a head where there is a GPU: with fewer, the ridge alone is better."""
LORA_RANK = 8
MAX_OFF_TARGET_IMAGES = 200
"""The off-target check looks at so many of the project's images, evenly spread."""


def trainers_for(settings: Settings, scorer: Scorer, fit: TrainingSet, seed: int) -> list[Trainer]:
    """The ridge, and head fine-tuning where the settings and the machine allow it.

    Args:
        settings: `tuning` says what is wanted; the starter's head is never fine-tuned.
        scorer: of the project's tags.
        fit: what may be learned from, with tokens.
        seed: of the tags that the off-target check draws.

    Raises:
        BundleDamaged: the bundle's head can't be read.
    """
    trainers: list[Trainer] = [RidgeTrainer()]
    if not is_tuning_wanted(settings, len(fit)) or scorer.bundle.kind == "starter":
        return trainers
    from ram_backend.training.head_tuning import HeadTrainer, TuningOptions

    tokens = off_target_tokens(scorer, fit)
    trainers.append(
        HeadTrainer(
            scorer.bundle,
            scorer.subset,
            TuningOptions(rank=LORA_RANK if settings.tuning == "low-rank" else None, device=settings.device),
            replay_tokens=scorer.photo_tokens,
            harmless=lambda files: measure_shift(_off_target(scorer, files, tokens, seed)).harmless,
        )
    )
    return trainers


def is_tuning_wanted(settings: Settings, images: int) -> bool:
    """Whether RAM_TUNING asks for head fine-tuning, or leaves it to this machine and so many images ("auto")."""
    if settings.tuning != "auto":
        return settings.tuning != "off"
    if images < MIN_TUNING_IMAGES or settings.device == "cpu":
        return False
    import torch

    return torch.cuda.is_available()


def log_odds_of(
    candidate: Candidate, scorer: Scorer, material: TrainingSet, parts: Split, progress: Callable[[int, int], None]
) -> FloatArray:
    """Calibrated log-odds (len(parts.gate), L) of a candidate on the gate's images."""
    gate = material.take(parts.gate)
    if not candidate.files:
        return candidate.logits(gate.base, gate.features)
    assert gate.tokens is not None
    z = scorer.with_head(candidate.files, gate.tokens, progress)
    return candidate.logits(z, gate.features)


def off_target_scores_of(
    candidate: Candidate, scorer: Scorer, material: TrainingSet, seed: int
) -> OffTargetScores | None:
    """Scores of tags outside the project under bundle and candidate; None: the candidate can't change them."""
    if not candidate.files:
        return None
    return _off_target(scorer, candidate.files, off_target_tokens(scorer, material), seed)


def off_target_tokens(scorer: Scorer, material: TrainingSet) -> Tokens:
    """Tokens of at most `MAX_OFF_TARGET_IMAGES` of the project's images and of the bundled photos."""
    assert material.tokens is not None
    count = min(len(material), MAX_OFF_TARGET_IMAGES)
    rows = np.linspace(0, len(material) - 1, count).astype(np.int64)
    return np.concatenate([material.tokens[rows], scorer.photo_tokens])


def _off_target(scorer: Scorer, files: dict[str, bytes], tokens: Tokens, seed: int) -> OffTargetScores:
    from ram_backend.training.head_tuning import off_target_scores

    return off_target_scores(scorer.bundle, scorer.network, files, scorer.subset, tokens, seed)
