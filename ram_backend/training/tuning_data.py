"""What one step of tuning sees: which images, which tags, and what the bundle's head said about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ram_backend.models.head import TaggingHead, TagQueries
from ram_backend.models.head_source import Entry, HeadSource
from ram_backend.models.ram import Descriptions, mixed

FloatArray = NDArray[np.float32]

PAIRS_AT_ONCE = 40_000


@dataclass(frozen=True)
class TagTexts:
    """The label embeddings of some tags, ready to become queries of a head that is in training.

    Attributes:
        source: whose tags.
        entries: L of them.
        device: where queries are made.
    """

    source: HeadSource
    entries: tuple[Entry, ...]
    device: torch.device
    _rows: tuple[FloatArray, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        few = self.entries if self.source.mixing_scale is None else ()
        object.__setattr__(self, "_rows", tuple(self.source.texts(few)))

    def __len__(self) -> int:
        return len(self.entries)

    def queries(self, head: TaggingHead, columns: NDArray[np.int64], tokens: Tensor) -> TagQueries:
        """Queries for the tags in `columns`, with gradients; `tokens` (B, T, D) matter to RAM++ only."""
        chosen = [self.entries[column] for column in columns]
        if self.source.mixing_scale is not None:
            rows = [torch.from_numpy(text) for text in self.source.texts(chosen)]
            scale = torch.tensor(self.source.mixing_scale, device=self.device)
            return head.queries(mixed(tokens.float(), Descriptions.of(rows).to(self.device), scale))
        embeddings = torch.from_numpy(np.concatenate([self._rows[column] for column in columns])).to(self.device)
        if head.config.classifier == "shared":
            return head.queries(embeddings)
        return head.queries(embeddings, torch.tensor([int(entry) for entry in chosen], device=self.device))


@dataclass(frozen=True)
class Beside:
    """What a head is held to besides the corrections of its project; None: not at all.

    Attributes:
        teacher: (N, d) float32 CLIP's image features, a row of zeros where there is none.
        also_seen: (M, T, D) tokens of other photos on which the bundle's behaviour is replayed, too.
    """

    teacher: FloatArray | None = field(default=None, repr=False)
    also_seen: NDArray[np.float16] | None = field(default=None, repr=False)

    def take(self, rows: NDArray[np.int64]) -> Beside:
        """The same for a selection of the images."""
        return Beside(None if self.teacher is None else self.teacher[rows], self.also_seen)


NOTHING_BESIDE = Beside()


def head_logits(
    head: TaggingHead, texts: TagTexts, tokens: NDArray[np.float16], columns: NDArray[np.int64] | None = None
) -> FloatArray:
    """Logits (N, len(columns)) float32 of a head in evaluation mode on images with tokens (N, T, D)."""
    chosen = np.arange(len(texts)) if columns is None else columns
    found = np.empty((len(tokens), len(chosen)), dtype=np.float32)
    if found.size == 0:
        return found
    training = head.training
    head.eval()
    images, tags = max(1, PAIRS_AT_ONCE // min(512, len(chosen))), 512
    with torch.inference_mode():
        for row in range(0, len(tokens), images):
            seen = as_tensor(tokens[row : row + images], texts.device)
            memory = head.keys_values(seen)
            for at in range(0, len(chosen), tags):
                queries = texts.queries(head, chosen[at : at + tags], seen)
                found[row : row + images, at : at + tags] = head.score(memory, queries).float().cpu().numpy()
    head.train(training)
    return found


def as_tensor(tokens: NDArray[np.float16] | FloatArray, device: torch.device) -> Tensor:
    """Tokens as float32 on the device."""
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32)).to(device)


def inner_validation(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Which images watch over the training instead of taking part: whole groups, about `share` of the images.

    Args:
        groups: (N,) images of a group go together.
        share: in [0, 1); 0: none.
        seed: same seed, same choice.

    Returns:
        (N,) bool, never all.
    """
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    wanted, taken = round(share * len(groups)), 0
    chosen = np.zeros(len(names), dtype=bool)
    for name in np.random.default_rng((seed, 1)).permutation(len(names)):
        if taken + sizes[name] <= wanted and taken + sizes[name] < len(groups):
            chosen[name] = True
            taken += int(sizes[name])
    return chosen[place]


def folds(groups: NDArray[np.int64], count: int, seed: int) -> list[NDArray[np.bool_]]:
    """Cuts images into parts of about the same size, (N,) bool each; a group is in one of them."""
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    part_of, filled = np.zeros(len(names), dtype=np.int64), np.zeros(max(2, count))
    for name in np.random.default_rng((seed, 4)).permutation(len(names)):
        part_of[name] = filled.argmin()
        filled[part_of[name]] += sizes[name]
    return [part_of[place] == part for part in range(len(filled)) if filled[part]]


def batches(rows: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows in random order, `size` at a time; a remainder smaller than half a batch joins the last one."""
    order = rng.permutation(rows)
    count = max(1, round(len(order) / size))
    for part in np.array_split(order, count):
        yield np.sort(part)


def drawn_tags(
    known: NDArray[np.bool_], present: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most `count` tags for a batch: those that somebody said something about, first those that are present.

    Args:
        known: (B, L) pairs with a weight above 0.
        present: (B, L) pairs that are right.
        count: at least 1.
        rng: draws among those that don't all fit.
    """
    asked = np.flatnonzero(known.any(axis=0))
    if len(asked) <= count:
        return asked
    there = np.flatnonzero((known & present).any(axis=0))
    most = count * 3 // 4
    if len(there) > most:
        there = rng.choice(there, most, replace=False)
    others = np.setdiff1d(asked, there)
    return np.sort(np.concatenate([there, rng.choice(others, count - len(there), replace=False)])).astype(np.int64)
