"""Training of the tagging head on cached tokens with asymmetric loss: minutes on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ram_backend.models.head import HeadConfig, TaggingHead
from ram_backend.training.head_tuning import asymmetric_loss
from starter.data import PRESENT, UNKNOWN


@dataclass(frozen=True)
class HeadOptions:
    """How the head is trained.

    Attributes:
        components: principal components of the tokens that training works in; folded away afterwards.
        batch: photos a step.
        tags: tags a step: up to three quarters of them present in the batch, the others drawn.
        text_scale: label embeddings have length 1; queries start to differ sooner when they are longer.
    """

    hidden: int = 192
    heads: int = 4
    intermediate: int = 384
    dropout: float = 0.1
    components: int = 320
    epochs: int = 16
    batch: int = 32
    tags: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    gamma_neg: float = 4.0
    clip: float = 0.05
    text_scale: float = 384**0.5


@dataclass(frozen=True)
class Basis:
    """A linear change of token coordinates: (tokens - mean) / spread @ axes."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def of(cls, tokens: NDArray[np.float16], components: int) -> Basis:
        """Standardised, then principal components with their variances evened out half-way; about unit spread."""
        sample = tokens[::2, ::2].reshape(-1, tokens.shape[2]).astype(np.float32)
        mean, spread = sample.mean(0), sample.std(0) + np.float32(1e-3)
        sample = (sample - mean) / spread
        values, vectors = np.linalg.eigh((sample.T @ sample / len(sample)).astype(np.float64))
        axes = vectors[:, ::-1][:, :components] / values[::-1][:components] ** 0.25
        signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        axes = (axes * signs).astype(np.float32)
        return cls(mean, spread, axes / (sample[:4000] @ axes).std())

    def apply(self, tokens: NDArray[np.float16]) -> NDArray[np.float16]:
        """(N, T, D) to (N, T, components)."""
        result = np.empty((*tokens.shape[:2], self.axes.shape[1]), dtype=np.float16)
        for start in range(0, len(tokens), 128):
            part = slice(start, start + 128)
            result[part] = ((tokens[part].astype(np.float32) - self.mean) / self.spread) @ self.axes
        return result


def train_head(
    views: Sequence[NDArray[np.float16]],
    basis: Basis,
    embeddings: NDArray[np.float32],
    states: NDArray[np.int8],
    *,
    options: HeadOptions = HeadOptions(),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[HeadConfig, dict[str, NDArray[np.float32]]]:
    """Trains one head.

    Args:
        views: tokens (N, T, components) of the same photos under several views, in the basis.
        basis: what they were changed with.
        embeddings: (L, E) label embeddings of the tags that are trained.
        states: (N, L): 1 present, 0 absent, -1 unknown.
        options: sizes and schedule.
        seed: same seed, same head (on the same machine and thread count).
        progress: told once an epoch how far it is.

    Returns:
        Config and weights of a `TaggingHead` that takes plain tokens (basis and text scale folded in).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = HeadConfig(
        token_width=basis.axes.shape[1], hidden=options.hidden, heads=options.heads, layers=1,
        intermediate=options.intermediate, label_width=embeddings.shape[1],
        layer_norm_eps=1e-6, dropout=options.dropout,
    )  # fmt: skip
    head = TaggingHead(config)
    torch.nn.init.constant_(head.classifier.bias, -3.0)
    steps = options.epochs * (len(states) // options.batch)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.15)
    texts = torch.from_numpy(embeddings * np.float32(options.text_scale))
    head.train()
    for epoch in range(options.epochs):
        order = rng.permutation(len(states))
        for step in range(len(states) // options.batch):
            photos = np.sort(order[step * options.batch : (step + 1) * options.batch])
            drawn = rng.integers(len(views), size=len(photos))
            tokens = np.stack([views[view][photo] for view, photo in zip(drawn, photos, strict=True)]).astype(
                np.float32
            )
            tags = _draw_tags(states[photos], options.tags, rng)
            target = torch.from_numpy(states[np.ix_(photos, tags)])
            logits = head(torch.from_numpy(tokens), head.queries(texts[torch.from_numpy(tags)]))
            loss = asymmetric_loss(
                logits, target == PRESENT, target != UNKNOWN, gamma_neg=options.gamma_neg, clip=options.clip
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(head.parameters(), 2.0)
            optimizer.step()
            schedule.step()
        if progress:
            progress(f"head: epoch {epoch + 1} of {options.epochs}, loss {loss.item():.2f}")
    return _folded(head, basis, options.text_scale)


def _draw_tags(states: NDArray[np.int8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    present = np.flatnonzero((states == PRESENT).any(axis=0))
    most = count * 3 // 4
    if len(present) > most:
        present = rng.choice(present, most, replace=False)
    others = np.setdiff1d(np.arange(states.shape[1]), present)
    drawn = rng.choice(others, min(count - len(present), len(others)), replace=False)
    return np.concatenate([present, drawn]).astype(np.int64)


def _folded(head: TaggingHead, basis: Basis, text_scale: float) -> tuple[HeadConfig, dict[str, NDArray[np.float32]]]:
    """Moves the basis into keys and values, and the text scale into the projection."""
    weights: dict[str, Any] = {name: tensor.detach().numpy().copy() for name, tensor in head.state_dict().items()}
    weights["projection.weight"] *= np.float32(text_scale)
    into = basis.axes.T / basis.spread
    for part in ("key", "value"):
        folded = weights[f"layers.0.{part}.weight"] @ into
        weights[f"layers.0.{part}.bias"] = weights[f"layers.0.{part}.bias"] - folded @ basis.mean
        weights[f"layers.0.{part}.weight"] = folded
    config = replace(head.config, token_width=len(basis.mean), dropout=0.0)
    return config, {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
