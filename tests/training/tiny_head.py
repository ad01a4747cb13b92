"""A small head, a small project: images whose tokens say which tags they have, in a way that the head doesn't know."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.head import HeadConfig, TaggingHead
from ram_backend.models.head_checkpoint import HeadCheckpoint
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.training.head_tuning import TuningOptions

TAGS, OUTSIDE, IMAGES = 5, 12, 64
TOKENS, WIDTH, TEXT = 4, 16, 10
QUICK: dict[str, Any] = {
    "epochs": 8, "batch": 8, "learning_rate": 1e-2, "replay_tags": 6, "dropout": 0.0, "validation": 0.25,
    "device": "cpu", "gamma_neg": 0.0, "clip": 0.0,
}  # fmt: skip


def options(**changed: Any) -> TuningOptions:
    return TuningOptions(**{**QUICK, **changed})


def checkpoint(seed: int = 0, **config: Any) -> HeadCheckpoint:
    """A head with drawn weights over a vocabulary of `TAGS + OUTSIDE` tags, of which the first are the project's."""
    torch.manual_seed(seed)
    numbers = HeadConfig(
        **{
            "token_width": WIDTH, "hidden": 16, "heads": 2, "layers": 2, "intermediate": 24, "label_width": TEXT,
            "layer_norm_eps": 1e-6, **config,
        }
    )  # fmt: skip
    head = TaggingHead(numbers)
    tensors = {name: tensor.detach().numpy().copy() for name, tensor in head.state_dict().items()}
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(TAGS + OUTSIDE, numbers.query_input_width)).astype(np.float32)
    return HeadCheckpoint(
        config=numbers,
        tensors=tensors,
        entries=tuple(range(TAGS)),
        slope=np.linspace(0.5, 1.5, TAGS).astype(np.float32),
        outside=np.arange(TAGS, TAGS + OUTSIDE),
        outside_slope=np.ones(OUTSIDE, dtype=np.float32),
        labels=LabelEmbeddings(rows, np.ones(len(rows), dtype=np.int32)),
    )


def training_set(seed: int = 1, images: int = IMAGES) -> TrainingSet:
    """Images whose global token says nothing, so that only a head that looks at the other tokens can learn."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, TAGS)) < 0.4
    directions = np.random.default_rng(99).normal(size=(TAGS, WIDTH))
    tokens = rng.normal(size=(images, TOKENS, WIDTH)) * 0.3 + (labels @ directions)[:, None, :]
    tokens[:, 0] = rng.normal(size=tokens[:, 0].shape)
    tokens = tokens.astype(np.float16)
    base = (0.3 * rng.normal(size=(images, TAGS))).astype(np.float32)
    return TrainingSet(
        tags=tuple(f"tag {number}" for number in range(TAGS)),
        features=tokens[:, 0].astype(np.float32),
        tokens=tokens,
        base=base,
        incumbent=base,
        labels=labels,
        weights=np.ones(labels.shape, dtype=np.float32),
        content=tuple(f"{seed}-{number}" for number in range(images)),
        phash=np.arange(images, dtype=np.uint64),
        ground_truth=np.zeros(images, dtype=bool),
        known_tags=np.ones(TAGS, dtype=bool),
        base_thresholds=np.full(TAGS, 0.5, dtype=np.float32),
    )
