"""Counts of confirmed, added and removed tags; precision and recall of what was shown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ram_backend.feedback.labels import LabelState, TaskLabels


@dataclass(frozen=True)
class TagCounts:
    """How often people confirmed, added and removed a tag."""

    tag: str
    confirmed: int
    added: int
    removed: int

    @property
    def shown(self) -> int:
        """How often it was ticked when they came."""
        return self.confirmed + self.removed

    @property
    def precision(self) -> float | None:
        """Precision: the share of shown ticks that people left on; None: never shown."""
        return self.confirmed / self.shown if self.shown else None

    @property
    def recall(self) -> float | None:
        """Recall: the share of the photos with this tag on which it was ticked beforehand; None: on no photo."""
        positives = self.confirmed + self.added
        return self.confirmed / positives if positives else None


def count_tags(corrections: Sequence[TaskLabels]) -> list[TagCounts]:
    """Per tag how often it was confirmed, added and removed, the most frequent first."""
    counts: dict[str, Counter[LabelState]] = {}
    for each in corrections:
        for tag, label in each.states.items():
            if label.state in ("confirmed", "added", "removed"):
                counts.setdefault(tag, Counter())[label.state] += 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    return [TagCounts(tag, count["confirmed"], count["added"], count["removed"]) for tag, count in ordered]
