"""What is known about the tags of an image: per tag a label, how much it is believed, and how it came about. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["confirmed", "added", "removed", "untouched", "unknown"]
"""`confirmed`: shown as on, left on. `added`: ticked by a person. `removed`: shown as on, unticked by a person.
`untouched`: off, and left off. `unknown`: as much says yes as says no, or nobody could say anything."""

FORCE: Mapping[State, int] = {"confirmed": 4, "added": 3, "removed": 2, "unknown": 1, "untouched": 0}
"""What was said before what was not."""


@dataclass(frozen=True)
class TagLabel:
    """What is known about one tag of one image.

    Attributes:
        label: whether it is there.
        weight: how much that is believed, in [0, 1]; 0: nothing is known.
        state: how that came about.
        score: that was shown, in [0, 1]; None: none, or not known.
    """

    label: bool
    weight: float
    state: State
    score: float | None = None


UNKNOWN = TagLabel(False, 0.0, "unknown")


@dataclass(frozen=True, eq=False)
class Asked:
    """The tags that there were to choose from for an image, and what it means that one stayed off.

    Attributes:
        tags: (T,) distinct texts.
        untouched: (T,) float32: how much "not there" is believed of a tag that nobody touched.
    """

    tags: tuple[str, ...] = field(repr=False)
    untouched: NDArray[np.float32] = field(repr=False)

    def label(self, tag: str) -> TagLabel:
        """What silence about a tag says."""
        place = self._places.get(tag)
        return UNKNOWN if place is None else TagLabel(False, float(self.untouched[place]), "untouched")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {tag: place for place, tag in enumerate(self.tags)}


@dataclass(frozen=True)
class TaskLabels:
    """What all annotations of a task together say about the tags of one image.

    Attributes:
        task_id: which task.
        to_name: name of the image in the label config.
        reference: where the image is; None: the task doesn't say.
        data: of the task, as far as it is kept.
        asked: what there was to choose from; one object for all tasks with the same tags.
        said: what is known about tags, other than that all annotators left them off.
        ground_truth: the project's owner vouches for it.
        annotation_ids: that were taken into account, rising.
        model_versions: of the predictions that they started from.
    """

    task_id: int
    to_name: str
    reference: str | None
    data: Mapping[str, Any] = field(repr=False)
    asked: Asked
    said: Mapping[str, TagLabel]
    ground_truth: bool
    annotation_ids: tuple[int, ...]
    model_versions: tuple[str, ...]

    def label(self, tag: str) -> TagLabel:
        """What is known about a tag; of one that could not be chosen: nothing."""
        return self.said.get(tag) or self.asked.label(tag)


def to_matrix(labels: Sequence[TaskLabels], tags: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Labels and weights of tags.

    Args:
        labels: N images.
        tags: L distinct texts; of those that an image was not asked about nothing is known.

    Returns:
        (N, L) bool and (N, L) float32 in [0, 1].
    """
    on = np.zeros((len(labels), len(tags)), dtype=np.bool_)
    weights = np.zeros((len(labels), len(tags)), dtype=np.float32)
    columns = {tag: place for place, tag in enumerate(tags)}
    silent: dict[int, NDArray[np.float32]] = {}
    for row, each in enumerate(labels):
        if id(each.asked) not in silent:
            silent[id(each.asked)] = np.array([each.asked.label(tag).weight for tag in tags], dtype=np.float32)
        weights[row] = silent[id(each.asked)]
        for tag, label in each.said.items():
            column = columns.get(tag)
            if column is not None:
                on[row, column], weights[row, column] = label.label, label.weight
    return on, weights


def stronger(one: TagLabel | None, other: TagLabel) -> TagLabel:
    """Of what two choices say of one tag: on before off, and what was said before what was not."""
    if one is None:
        return other

    def force(label: TagLabel) -> tuple[object, ...]:
        score = -1.0 if label.score is None else label.score
        return (label.label, FORCE[label.state] >= 2, label.weight, FORCE[label.state], score)

    return max(one, other, key=force)


def agreed(labels: Sequence[TagLabel]) -> TagLabel:
    """What several annotators say of one tag.

    The side with more weight wins, with the mean weight of those on it times (2 x share - 1), where the share is that
    of its weight in all: agreement counts in full, a tie is `unknown`.
    """
    sides = [[each for each in labels if each.label is on and each.weight > 0] for on in (False, True)]
    no, yes = (sum(each.weight for each in side) for side in sides)
    if abs(yes - no) <= 1e-9:
        return UNKNOWN
    winners = sides[yes > no]
    share = max(yes, no) / (yes + no)
    strength = max(yes, no) / len(winners)
    state = max(winners, key=lambda each: FORCE[each.state]).state
    scores = [each.score for each in labels if each.score is not None]
    return TagLabel(yes > no, strength * (2 * share - 1), state, max(scores, default=None))
