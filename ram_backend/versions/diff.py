"""Diff of two versions of a project: thresholds, base scale, bias and weights per tag. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.versions.directory import Version

NUMBERS = ("threshold", "base_scale", "bias")
_Tag = tuple[Mapping[str, float | None], NDArray[np.float32]]
_NONE = np.zeros(1, dtype=np.float32)
_BASE: _Tag = ({"threshold": None, "base_scale": 1.0, "bias": 0.0}, _NONE)


@dataclass(frozen=True)
class TagChange:
    """A tag's threshold (None: the bundle's), base_scale and bias on both sides, and the L2 distance of its weights."""

    tag: str
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    weights_moved: float

    @property
    def size(self) -> float:
        """Sum of all changes, for sorting."""
        pairs = [(self.before[name], self.after[name]) for name in NUMBERS]
        return self.weights_moved + sum(abs(b - a) for a, b in pairs if a is not None and b is not None)


def compare(before: Version | None, after: Version | None) -> list[TagChange]:
    """The tags that differ between two versions of one project (None: the base), the most changed one first."""
    old, new = _tags_of(before), _tags_of(after)
    found = []
    for tag in {**old, **new}:
        (numbers, weights), (new_numbers, new_weights) = old.get(tag, _BASE), new.get(tag, _BASE)
        fits = weights.shape == new_weights.shape or 1 in weights.shape + new_weights.shape
        moved = float(np.linalg.norm(new_weights - weights if fits else new_weights))
        if moved or numbers != new_numbers:
            found.append(TagChange(tag, numbers, new_numbers, moved))
    return sorted(found, key=lambda each: -each.size)


def _tags_of(version: Version | None) -> dict[str, _Tag]:
    if version is None:
        return {}
    delta = version.delta
    values = zip(delta.thresholds, delta.base_scale, delta.bias, strict=True)
    numbers = [{name: round(float(v), 6) for name, v in zip(NUMBERS, row, strict=True)} for row in values]
    return dict(zip(delta.tags, zip(numbers, delta.weight, strict=True), strict=True))
