"""Which recipes compete for a project's candidate, and what a candidate with a tuned head would do elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import NotAvailable
from ram_backend.gate.folds import Split
from ram_backend.gate.off_target import OffTargetScores, measure_shift
from ram_backend.gate.training_set import TrainingSet
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.training.selection import Candidate, RidgeTrainer, Trainer
from ram_backend.worker.training_data import Scorer

FloatArray = NDArray[np.float32]
Tokens = NDArray[np.float16]
Teacher = Callable[[], "Mapping[str, FloatArray] | None"]
"""Gives CLIP's image features (d,) by the sha256 of the image's bytes; None: there are none."""

WATCHED = 200
"""Of the project's images at most so many are looked at for the guard."""


def recipes_for(
    settings: Settings, key: ProjectKey, scorer: Scorer, fit: TrainingSet, seed: int, teacher: Teacher
) -> list[Trainer]:
    """The residual, and where the settings and the machine allow it a tuned head.

    Args:
        settings: `tuning` says what is wanted.
        key: of which project.
        scorer: of the project's tags.
        fit: what may be learned from, with tokens.
        seed: of the tags that the guard watches.
        teacher: asked only where a head is tuned.

    Raises:
        BundleDamaged: the bundle's head can't be read.
    """
    recipes: list[Trainer] = [RidgeTrainer()]
    if settings.tuning == "off":
        return recipes
    from ram_backend.training.tuning_rule import tuning_rank

    on_gpu = scorer.bundle.kind != "starter" and _is_on_gpu(settings)
    wanted, rank = tuning_rank(settings.tuning, images=len(fit), on_gpu=on_gpu)
    if not wanted:
        return recipes
    from ram_backend.models.head_source import open_head
    from ram_backend.training.tuning_options import TuningOptions
    from ram_backend.training.tuning_recipe import HeadTrainer

    if rank is not None and not _has_peft():
        raise NotAvailable("RAM_TUNING=low-rank needs peft: pip install 'ram_backend[low-rank]', or set it to whole.")
    tokens = watched_tokens(scorer, fit)
    source = open_head(scorer.bundle, scorer.subset.entries, scorer.subset.calibration.slope)
    folder = hashlib.sha256(str(key).encode()).hexdigest()[:16]
    recipes.append(
        HeadTrainer(
            source,
            options=TuningOptions(rank=rank, device=settings.device),
            also_seen=scorer.photo_tokens,
            teacher=teacher(),
            harmless=lambda files: measure_shift(guard_of(scorer, files, tokens, seed)).harmless,
            checkpoint_dir=settings.cache_dir / "tuning" / folder,
        )
    )
    return recipes


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


def guard_of_candidate(
    candidate: Candidate, scorer: Scorer, material: TrainingSet, seed: int
) -> OffTargetScores | None:
    """What a candidate does to tags that the project never asked about; None: it can't do anything to them."""
    return guard_of(scorer, candidate.files, watched_tokens(scorer, material), seed) if candidate.files else None


def guard_of(scorer: Scorer, files: dict[str, bytes], tokens: Tokens, seed: int) -> OffTargetScores:
    """The same for a tuned head, on images with these tokens."""
    from ram_backend.training.tuning_guard import outside_guard, outside_subset

    outside = outside_subset(scorer.bundle, scorer.subset, seed=seed)
    return outside_guard(scorer.bundle, scorer.network, files, outside, tokens)


def watched_tokens(scorer: Scorer, material: TrainingSet) -> Tokens:
    """Tokens of some of the project's images and of the bundled photos."""
    assert material.tokens is not None
    step = max(1, len(material) // WATCHED)
    return np.concatenate([material.tokens[::step], scorer.photo_tokens])


def _is_on_gpu(settings: Settings) -> bool:
    """Whether a bundle that runs on torch runs on a GPU here."""
    if settings.device == "cpu":
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_peft() -> bool:
    from importlib.util import find_spec

    return find_spec("peft") is not None
