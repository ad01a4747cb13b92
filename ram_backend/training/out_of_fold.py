"""Deltas without each fold, stored with a version: its own training images can then be read by a fit without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import VersionDamaged
from ram_backend.models.delta import Delta

FILE = "folds.safetensors"


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
    return {FILE: save({**arrays, "content": _short(content)})}


def read_folds(
    files: Mapping[str, bytes], tags: Sequence[str], content: Sequence[str]
) -> tuple[dict[int, Delta], NDArray[np.bool_]]:
    """What `write_folds` wrote, and which of N images the version was fitted on.

    Args:
        files: of the version; without `FILE` (earlier releases, a tuned head)
            there are no folds.
        tags: of its delta.
        content: N sha256 of images.

    Raises:
        VersionDamaged: the file can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if FILE not in files:
        return {}, np.zeros(len(content), dtype=np.bool_)
    try:
        arrays = load(files[FILE])
        seen = np.isin(_short(content), arrays.pop("content"))
        folds = sorted({int(name.partition(".")[0]) for name in arrays})
    except (SafetensorError, KeyError, ValueError) as error:
        raise VersionDamaged(f"{FILE} of a version can't be read ({error}): train again.") from None
    tensors = {
        fold: {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{fold}.")}
        for fold in folds
    }
    return {fold: Delta.from_tensors(tags, each) for fold, each in tensors.items()}, seen


def _short(content: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([int(each[:16], 16) for each in content], dtype=np.uint64)
