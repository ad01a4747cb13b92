"""Verdict of the gate: outcome, figures, and the sentence that explains it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from ram_backend.errors import InputError
from ram_backend.gate.off_target import LARGEST_MOVE, LEAST_AGREEMENT, OffTargetShift
from ram_backend.gate.statistics import AssociationTest, RankingChange

Outcome = Literal["accept", "reject", "needs_data"]
OUTCOMES = ("accept", "reject", "needs_data")
UNRELATED = "labels look unrelated to the images"
"""Part of the reason where they do."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says about a candidate.

    Attributes:
        outcome: `accept`, `reject` or `needs_data`.
        reason: one sentence with figures, for people.
        figures: by name; see `judge`. What could not be measured is absent: all are finite.
    """

    outcome: Outcome
    reason: str
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        finite = {name: float(value) for name, value in self.figures.items() if math.isfinite(value)}
        object.__setattr__(self, "figures", finite)

    @property
    def accepted(self) -> bool:
        """The candidate may be served."""
        return self.outcome == "accept"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file or column."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` gave.

        Raises:
            InputError: a field is missing or is not what it has to be.
        """
        outcome, reason, figures = (values.get(name) for name in ("outcome", "reason", "figures"))
        if outcome not in OUTCOMES or not isinstance(reason, str):
            raise InputError(f"A verdict has the outcome {outcome!r}: it has to be accept, reject or needs_data.")
        if not isinstance(figures, Mapping) or not all(isinstance(value, int | float) for value in figures.values()):
            raise InputError("A verdict's figures are not numbers by name: it was not written by this program.")
        return cls(cast("Outcome", outcome), reason, {str(name): float(value) for name, value in figures.items()})


def message_too_little(images: int, positives: int, fewest: tuple[int, int], more: int) -> str:
    """The gate has too few images or right tags (`fewest`: of each); so many more corrections are needed."""
    return (
        f"Too little to judge by: {count(images, 'image')} with {count(positives, 'right tag')} kept aside for the"
        f" gate, and {fewest[0]} with {fewest[1]} are needed; about {count(more, 'more corrected image')} will do."
    )


def message_unrelated(association: AssociationTest) -> str:
    """The incumbent ranks the corrections no better than permuted ones."""
    if math.isnan(association.mean_rank):
        return f"Nothing is learned from these corrections, their {UNRELATED}: no tag is right for any of them."
    return (
        f"Nothing is learned from these corrections, their {UNRELATED}: what is served now ranks them at"
        f" {association.mean_rank:.3f}, where .5 is chance and 1 is perfect, and {association.p_value:.0%} of random"
        " permutations of the labels do as well; check that the annotations belong to these images."
    )


def message_off_target(result: OffTargetShift) -> str:
    """The guard doesn't hold."""
    if not math.isfinite(result.move):
        return "The candidate's scores for tags outside the project are no probabilities: training diverged."
    agreement = "" if math.isnan(result.agreement) else f" and agree with its decisions to {result.agreement:.3f}"
    return (
        f"The candidate would change tags outside the project: their scores move by {result.move:.4f} on average,"
        f" {result.relative_move:.0%} of the bundle's{agreement}; the limits are {LARGEST_MOVE:.0%} and"
        f" {LEAST_AGREEMENT}."
    )


def message_comparison(change: RankingChange, images: int) -> str:
    """Both rankings in figures."""
    return (
        f"weighted mAP {change.after:.3f} instead of {change.before:.3f} ({change.change:+.3f}, 95 % interval"
        f" {change.low:+.3f} to {change.high:+.3f}, better in {change.probability:.1%} of the resamples) on"
        f" {count(images, 'image')} that nothing was fitted on"
    )


def count(number: int, what: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
