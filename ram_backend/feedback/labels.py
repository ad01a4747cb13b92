"""Weak labels: per tag of an image a label, its weight, and its state. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LabelState = Literal["confirmed", "added", "removed", "untouched", "unknown"]
"""`confirmed`: shown as on, left on. `removed`: shown as on, unticked.

`added`: ticked by a person. `untouched`: off, and left off.
`unknown`: annotators disagree evenly, or could not choose it.
"""

PRECEDENCE: Mapping[LabelState, int] = {"confirmed": 4, "added": 3, "removed": 2, "unknown": 1, "untouched": 0}
"""Explicit statements come before silence."""


@dataclass(frozen=True)
class TagLabel:
    """The label of one tag for one image.

    Attributes:
        label: whether the tag applies.
        weight: in [0, 1]; 0: nothing is known.
        score: that was shown, in [0, 1]; None: none, or not known.
    """

    label: bool
    weight: float
    state: LabelState
    score: float | None = None


UNKNOWN, UNTOUCHED = TagLabel(False, 0.0, "unknown"), TagLabel(False, 1.0, "untouched")


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image from one annotation (a correction), or several.

    Attributes:
        to_name: name of the image in the label config.
        reference: where the image is; None: the task doesn't say.
        candidates: the tags that could be chosen, in order; one object for all
            tasks with the same tags.
        states: labels of the tags that at least one annotator touched.
        ground_truth: an annotation marked as ground truth decided.
        annotation_ids: ascending.
        model_versions: of the predictions that they started from.
        versions: the project's versions that made those; none of the base.
    """

    task_id: int
    to_name: str
    reference: str | None
    candidates: Mapping[str, None]
    states: Mapping[str, TagLabel]
    ground_truth: bool
    annotation_ids: tuple[int, ...]
    model_versions: tuple[str, ...]
    versions: tuple[str, ...] = ()

    def label(self, tag: str) -> TagLabel:
        """The label of a tag; `UNKNOWN` if it could not be chosen."""
        return self.states.get(tag) or (UNTOUCHED if tag in self.candidates else UNKNOWN)

    def tags(self, state: LabelState) -> tuple[str, ...]:
        """The tags in a state other than untouched, in order of their names."""
        return tuple(sorted(tag for tag, label in self.states.items() if label.state == state))


def to_matrix(labels: Sequence[ImageLabels], tags: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Labels and their weights as matrices: a row per image, a column per tag.

    Args:
        labels: of N images.
        tags: L distinct ones, in the order of the columns.

    Returns:
        (N, L) bool, (N, L) float32 in [0, 1]; 0: unknown, or no candidate.
    """
    on = np.zeros((len(labels), len(tags)), dtype=np.bool_)
    weights = np.zeros((len(labels), len(tags)), dtype=np.float32)
    columns = {tag: index for index, tag in enumerate(tags)}
    untouched: dict[int, list[bool]] = {}
    for row, each in enumerate(labels):
        candidates = each.candidates
        if id(candidates) not in untouched:
            untouched[id(candidates)] = [tag in candidates for tag in tags]
        weights[row] = untouched[id(candidates)]
        for tag, label in each.states.items():
            column = columns.get(tag)
            if column is not None:
                on[row, column], weights[row, column] = label.label, label.weight
    return on, weights


def merge_choices(one: TagLabel | None, other: TagLabel) -> TagLabel:
    """Merges two choices of one tag by `PRECEDENCE`."""
    if one is None:
        return other

    def precedence(label: TagLabel) -> tuple[object, ...]:
        score = -1.0 if label.score is None else label.score
        return (label.label, PRECEDENCE[label.state] >= 2, label.weight, PRECEDENCE[label.state], score)

    return max(one, other, key=precedence)


def weighted_vote(labels: Sequence[TagLabel]) -> TagLabel:
    """Weighted vote of several annotators on one tag.

    The side with more weight wins. Its weight is the mean weight of its voters
    times (2 x share - 1), with its share of all weight; a tie is `unknown`.
    """
    sides = [[each for each in labels if each.label is on and each.weight > 0] for on in (False, True)]
    no, yes = (sum(each.weight for each in side) for side in sides)
    if abs(yes - no) <= 1e-9:
        return UNKNOWN
    winners = sides[yes > no]
    share = max(yes, no) / (yes + no)
    mean_weight = max(yes, no) / len(winners)
    state = max(winners, key=lambda each: PRECEDENCE[each.state]).state
    scores = [each.score for each in labels if each.score is not None]
    return TagLabel(yes > no, mean_weight * (2 * share - 1), state, max(scores, default=None))


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
        """The share of shown ticks that people left on; None: never shown."""
        return self.confirmed / self.shown if self.shown else None

    @property
    def recall(self) -> float | None:
        """The share of photos with this tag on which it was ticked; None: no photo."""
        positives = self.confirmed + self.added
        return self.confirmed / positives if positives else None


def count_tags(corrections: Sequence[ImageLabels]) -> list[TagCounts]:
    """Counts of each tag, the most frequent first."""
    counts: dict[str, Counter[LabelState]] = {}
    for each in corrections:
        for tag, label in each.states.items():
            if label.state in ("confirmed", "added", "removed"):
                counts.setdefault(tag, Counter())[label.state] += 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    return [TagCounts(tag, count["confirmed"], count["added"], count["removed"]) for tag, count in ordered]
