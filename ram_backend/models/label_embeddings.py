"""Memory-mapped label embeddings of a bundle: only the asked tags' rows are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged

FILE = "label_embeddings.safetensors"
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I32": np.dtype("<i4")}


@dataclass(frozen=True)
class LabelEmbeddings:
    """One or several embeddings per tag.

    Attributes:
        rows: (N, d) float32 or float16, memory-mapped: tag 0's rows, then tag 1's, and so on.
        counts: (tags,) int32, at least 1: how many rows each tag has (RAM++ 51, the others 1); they sum to N.
    """

    rows: NDArray[Any]
    counts: NDArray[np.int32]

    @classmethod
    def open(cls, directory: Path) -> LabelEmbeddings:
        """Maps the file of a bundle; reads nothing but its header and the counts.

        Raises:
            BundleDamaged: there is no such file, or it is malformed.
        """
        path = directory / FILE
        try:
            arrays = map_tensors(path)
            labels = cls(arrays["rows"], np.array(arrays["counts"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleDamaged(f"{path}: can't be read ({error}). Remove the bundle and make it again.") from None
        if labels.rows.ndim != 2 or len(labels.rows) != int(labels.counts.sum()) or (labels.counts < 1).any():
            raise BundleDamaged(f"{path}: its rows and counts don't fit. Remove the bundle and make it again.")
        return labels

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def width(self) -> int:
        """d, the width of one embedding."""
        return int(self.rows.shape[1])

    def of(self, tag: int) -> NDArray[np.float32]:
        """The embeddings (k, d) of one tag, as a copy in memory."""
        start = int(self._starts[tag])
        return np.array(self.rows[start : start + int(self.counts[tag])], dtype=np.float32)

    def gather(self, tags: Sequence[int]) -> NDArray[np.float32]:
        """The embeddings of several tags that have one each: (len(tags), d), as a copy in memory."""
        return np.array(self.rows[self._starts[np.asarray(tags, dtype=np.int64)]], dtype=np.float32)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts[:-1], dtype=np.int64)])


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Maps the tensors of a safetensors file read-only, without reading their values.

    Raises:
        OSError: the file can't be read.
        ValueError, KeyError, TypeError: it is no safetensors file, ends early, or holds types other than F32, F16, I32.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("not a safetensors file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        if 8 + length + stop > size:
            raise ValueError("the file ends early")
        shape, kind = tuple(entry["shape"]), _TYPES[entry["dtype"]]
        arrays[name] = np.memmap(path, dtype=kind, mode="r", offset=8 + length + start, shape=shape)
    return arrays
