"""Diff of two versions of a project: thresholds, base scale, bias and weights per tag. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ram_backend.models.delta import Delta
from ram_backend.versions.directory import BASE, Version
from ram_backend.versions.lineage import Lineage

_NUMBERS = ("threshold", "base_scale", "bias")
_PLAIN = {"threshold": None, "base_scale": 1.0, "bias": 0.0}
"""A tag that a version leaves to the bundle; the threshold is the bundle's then."""


@dataclass(frozen=True)
class ChangedTag:
    """One tag that differs.

    Attributes:
        name: the tag.
        before, after: its threshold, base_scale and bias; a threshold of None is the bundle's own.
        moved: length of the difference of its weights.
    """

    name: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    moved: float

    @property
    def size(self) -> float:
        """How much it changed, all in all: for sorting."""
        numbers = sum(
            abs((self.after[name] or 0.0) - (self.before[name] or 0.0)) for name in _NUMBERS if name != "threshold"
        )
        thresholds = (self.before["threshold"], self.after["threshold"])
        known = [each for each in thresholds if each is not None]
        return self.moved + numbers + (abs(known[0] - known[-1]) if len(known) == 2 else 0.0)

    @property
    def moved_text(self) -> str:
        """`moved`, for people."""
        return f"{self.moved:.3g}"

    def shown(self, name: str) -> str:
        """One number before and after, for people."""
        before, after = (
            ("bundle's" if each is None else f"{each:.3g}") for each in (self.before[name], self.after[name])
        )
        return before if before == after else f"{before} to {after}"


@dataclass(frozen=True)
class Compared:
    """Two versions side by side; None is the bundle's base.

    Attributes:
        before, after: their names.
        lineages: of both.
        tags: those that differ, the most changed one first.
    """

    before: str
    after: str
    lineages: tuple[Lineage | None, Lineage | None]
    tags: Sequence[ChangedTag]

    def facts(self) -> Sequence[str]:
        """What else there is to say, a line each."""
        lines: list[str] = []
        for name, lineage in zip((self.before, self.after), self.lineages, strict=True):
            if lineage is None:
                lines.append(f"{name}: the bundle without any version")
                continue
            used = lineage.corrections
            figures = ", ".join(f"{key} {value:.4g}" for key, value in lineage.metrics_after.items()) or "no figures"
            lines.append(
                f"{name}: recipe {lineage.recipe}, {used.count} corrections (up to event {used.last_event},"
                f" {used.added} of them new, {used.withdrawn} withdrawn), {figures}"
            )
        lines.append(f"{self.corrections_between:+d} corrections from {self.before} to {self.after}")
        return lines

    @property
    def corrections_between(self) -> int:
        """Corrections of the second beyond those of the first; negative where it has fewer."""
        counts = [0 if lineage is None else lineage.corrections.count for lineage in self.lineages]
        return counts[1] - counts[0]

    def to_json(self, top: int) -> dict[str, Any]:
        """As an object of JSON, with the `top` tags that changed most."""
        return {
            "before": self.before,
            "after": self.after,
            "corrections_between": self.corrections_between,
            "metrics": {
                name: {} if lineage is None else dict(lineage.metrics_after)
                for name, lineage in zip((self.before, self.after), self.lineages, strict=True)
            },
            "tags_that_differ": len(self.tags),
            "tags": [
                {"tag": each.name, "before": each.before, "after": each.after, "weights_moved": each.moved}
                for each in self.tags[:top]
            ],
        }


def compare(before: Version | None, after: Version | None) -> Compared:
    """Compares two versions of one project; None is the bundle's base."""
    sides = (before, after)
    rows = [{} if side is None else {tag: row for row, tag in enumerate(side.delta.tags)} for side in sides]
    width = next((side.delta.width for side in sides if side is not None), 0)
    changed: list[ChangedTag] = []
    for tag in dict.fromkeys([*rows[0], *rows[1]]):
        numbers = [_numbers(side, row.get(tag)) for side, row in zip(sides, rows, strict=True)]
        weights = [_weights(side, row.get(tag), width) for side, row in zip(sides, rows, strict=True)]
        fits = weights[0].shape == weights[1].shape
        moved = float(np.linalg.norm(weights[1] - weights[0])) if fits else float(np.linalg.norm(weights[1]))
        if moved or numbers[0] != numbers[1]:
            changed.append(ChangedTag(tag, numbers[0], numbers[1], moved))
    changed.sort(key=lambda each: -each.size)
    return Compared(_name(before), _name(after), (_lineage(before), _lineage(after)), changed)


def _name(side: Version | None) -> str:
    return BASE if side is None else side.name


def _lineage(side: Version | None) -> Lineage | None:
    return None if side is None else side.lineage


def _numbers(side: Version | None, row: int | None) -> dict[str, float | None]:
    if side is None or row is None:
        return dict(_PLAIN)
    delta: Delta = side.delta
    values = (delta.thresholds[row], delta.base_scale[row], delta.bias[row])
    return {name: round(float(value), 6) for name, value in zip(_NUMBERS, values, strict=True)}


def _weights(side: Version | None, row: int | None, width: int) -> Any:
    return np.zeros(width, dtype=np.float32) if side is None or row is None else side.delta.weight[row]
