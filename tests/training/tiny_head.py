"""A small bundle and a small project whose image tokens tell the tags, in a way that the head doesn't know."""

from pathlib import Path
from typing import Any

import numpy as np
from models import tiny
from support import training_sets

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.bundle import Bundle
from ram_backend.models.importing import import_checkpoint
from ram_backend.tagging.subset import Subset, resolve_subset
from ram_backend.training.head_tuning import HeadTrainer

TAGS, OUTSIDE, IMAGES = 5, 12, 64
TOKENS, WIDTH = 17, tiny.WIDTH
NAMES = tuple(f"tag {number}" for number in range(TAGS + OUTSIDE))
QUICK: dict[str, Any] = {
    "epochs": 8, "batch": 8, "learning_rate": 1e-2, "replay_tags": 6, "dropout": 0.0, "validation": 0.25,
    "device": "cpu", "gamma_neg": 0.0, "clip": 0.0,
}  # fmt: skip


def trainer(bundle: Bundle, tags: Subset | None = None, **changed: Any) -> HeadTrainer:
    return HeadTrainer(bundle, tags or subset(bundle), **{**QUICK, **changed})


def import_bundle(folder: Path) -> Bundle:
    """RAM with drawn weights and a vocabulary of `TAGS + OUTSIDE` tags, of which the first are the project's."""
    file, tags = tiny.write(folder, "ram", tiny.state_dict("ram", tags=len(NAMES)))
    tags.write_text("\n".join(NAMES))
    return import_checkpoint(file, tags, name="ram", bundles_dir=folder / "bundles", **tiny.options("ram"))


def subset(bundle: Bundle) -> Subset:
    return resolve_subset(bundle, NAMES[:TAGS])


def training_set(seed: int = 1, images: int = IMAGES) -> TrainingSet:
    """Images whose global token says nothing, so that only a head that looks at the other tokens can learn."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, TAGS)) < 0.4
    directions = np.random.default_rng(99).normal(size=(TAGS, WIDTH))
    tokens = rng.normal(size=(images, TOKENS, WIDTH)) * 0.3 + (labels @ directions)[:, None, :]
    tokens[:, 0] = rng.normal(size=tokens[:, 0].shape)
    tokens = tokens.astype(np.float16)
    base = 0.3 * rng.normal(size=(images, TAGS))
    return training_sets.training_set(tokens[:, 0], base, labels, seed=seed, tokens=tokens)
