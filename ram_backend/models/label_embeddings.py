"""Memory-mapped label embeddings of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ram_backend.errors import BundleDamaged, VocabularyError
from ram_backend.vocabulary.prompts import unit_rows

FILE = "label_embeddings.safetensors"

FloatArray = NDArray[np.float32]
Entry = int | FloatArray
"""A tag: its row in the vocabulary, or for a new tag its text embeddings (k, d)."""


@dataclass(frozen=True)
class LabelEmbeddings:
    """One or several embeddings per tag.

    Attributes:
        rows: (N, d) float32 or float16, an array or a slice of a mapped file:
            tag 0's rows, then tag 1's, and so on.
        counts: (tags,) int32, at least 1: rows of each tag (RAM++ 51, the
            others 1); they sum to N.
        width: d.
    """

    rows: Any
    counts: NDArray[np.int32]
    width: int

    @classmethod
    def open(cls, directory: Path) -> LabelEmbeddings:
        """Maps a bundle's file; BundleDamaged where it is missing or malformed."""
        path = directory / FILE
        try:
            file: Any = safe_open(path, framework="numpy")
            rows, counts = file.get_slice("rows"), file.get_tensor("counts")
            number, width = rows.get_shape()
        except (OSError, ValueError, SafetensorError) as error:
            raise BundleDamaged(f"{path}: can't be read ({error}). Make the bundle again.") from None
        if number != int(counts.sum()) or (counts < 1).any():
            raise BundleDamaged(f"{path}: its rows and counts don't fit. Make the bundle again.")
        return cls(rows, counts, width)

    def __len__(self) -> int:
        return len(self.counts)

    def count(self, entry: Entry) -> int:
        """How many embeddings a tag has; VocabularyError: unknown row, other width."""
        if not isinstance(entry, np.ndarray):
            if not 0 <= entry < len(self):
                raise VocabularyError(f"There is no tag {entry}: the bundle has the tags 0 to {len(self) - 1}.")
            return int(self.counts[entry])
        if entry.ndim != 2 or len(entry) == 0 or entry.shape[1] != self.width:
            raise VocabularyError(
                f"The embedding of a new tag has shape {entry.shape}, this bundle needs (k, {self.width}):"
                " embed it with the bundle's own text encoder."
            )
        return len(entry)

    def of(self, entry: Entry) -> FloatArray:
        """The embeddings (k, d) of one tag, a copy; VocabularyError as `count`."""
        count = self.count(entry)
        start = None if isinstance(entry, np.ndarray) else int(self._starts[entry])
        return np.array(entry if start is None else self.rows[start : start + count], dtype=np.float32)

    def means(self, entries: Sequence[Entry]) -> FloatArray:
        """One embedding per tag, (L, d): its own, or its several's mean of length 1."""
        found = np.empty((len(entries), self.width), dtype=np.float32)
        for place, entry in enumerate(entries):
            rows = self.of(entry)
            found[place] = rows[0] if len(rows) == 1 else unit_rows(rows.mean(axis=0, keepdims=True))[0]
        return found

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts[:-1], dtype=np.int64)])
