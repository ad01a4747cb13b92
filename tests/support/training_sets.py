"""Corrected photos, as the gate and the trainers take them."""

import hashlib
from typing import Any

import numpy as np

from ram_backend.gate.training_set import TrainingSet


def training_set(features: Any, base: Any, labels: Any, *, seed: int = 0, **changes: Any) -> TrainingSet:
    """Photos that are like no other; tags are ticked above .5, and all labels are believed."""
    images, tags = labels.shape
    log_odds, half = base.astype(np.float32), np.full(tags, 0.5, dtype=np.float32)
    fields = {
        "tags": tuple(f"tag {number}" for number in range(tags)),
        "features": features.astype(np.float32),
        "tokens": None,
        "base": log_odds,
        "incumbent": log_odds,
        "labels": labels,
        "weights": np.ones_like(log_odds),
        "content": tuple(hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(images)),
        "groups": np.arange(images),
        "base_thresholds": half,
        "incumbent_thresholds": half,
        "add_costs": np.ones_like(half),
    }
    return TrainingSet(**fields | changes)


def simulated(seed: int, images: int, *, shuffled: bool = False, tags: int = 12, level: float = 0.8) -> TrainingSet:
    """Random features; the truth, above a level, is linear in them and known to the bundle in part.

    Shuffled: corrections of somebody who labelled other images.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, 24))
    truth = features @ random.normal(size=(24, tags)) / np.sqrt(24)
    labels = truth + 0.2 * random.normal(size=truth.shape) > level
    base = 1.5 * truth + 2.0 * features @ random.normal(size=(24, tags)) / np.sqrt(24) - 2.0
    if shuffled:
        labels = labels[random.permutation(images)]
    weights = np.where(labels, 1.0, 0.5).astype(np.float32)
    return training_set(features, base, labels, seed=seed, weights=weights)
