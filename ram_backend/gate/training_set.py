"""Training set of a project: features, scores, labels and weights, one row per image.

Shapes: N images, L tags, F feature width, T tokens of width D, E width of text
embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.statistics import filter_annotators
from ram_backend.metrics import edits
from ram_backend.models.calibration import NEUTRAL, cost_thresholds, sigmoid

FOLDS = 5
FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]


@dataclass(frozen=True)
class TrainingSet:
    """One row per image.

    Attributes:
        tags: L distinct texts, as the tagger is asked for them.
        features: (N, F) float32, `features_of` the tokens.
        tokens: (N, T, D) float16, may be a memory map; None if no trainer needs
            it.
        base: (N, L) float32, the bundle's calibrated log-odds.
        incumbent: (N, L) float32, calibrated log-odds of what is served now;
            `base` itself where that is the bundle.
        labels: (N, L) bool, what people said; False where nobody said anything.
        weights: (N, L) float32 in [0, 1], how much the label is believed; 0:
            nobody said.
        imputed: (N, L) bool, known pairs whose annotator leaves out what is
            missing: their labels are drawn from what is served. None: no pair.
        content: N sha256 of the images' bytes.
        groups: (N,) int64, near-duplicates have the same number.
        base_thresholds: (L,) float32 in [0, 1), the bundle's.
        incumbent_thresholds: (L,) float32 in [0, 1), above which a tag is
            ticked now.
        add_costs: (L,) float32 above 0, what it costs to add a missing tag; 1:
            as much as to remove a wrong one.
        fixed_thresholds: (L,) float32 in [0, 1], set by an admin, above which a
            tag is ticked whatever is learned; nan: none. None: of no tag.
        most_ticked: per image, 1 or more; None: any number.
        calibrated: the bundle's scores are calibrated probabilities; False:
            only its thresholds mean something.
        embeddings: (L, E) float32 text embeddings of the tags, length 1, so
            that tags of similar meaning can share what they learn, see
            `tagging.subset`; None where the bundle has none.

    Raises:
        InputError: numbers that are not finite; names the field.
    """

    tags: tuple[str, ...]
    features: FloatArray
    tokens: NDArray[np.float16] | None
    base: FloatArray
    incumbent: FloatArray
    labels: NDArray[np.bool_]
    weights: FloatArray
    content: tuple[str, ...]
    groups: NDArray[np.int64]
    base_thresholds: FloatArray
    incumbent_thresholds: FloatArray
    add_costs: FloatArray
    fixed_thresholds: FloatArray | None = None
    most_ticked: int | None = None
    calibrated: bool = True
    embeddings: FloatArray | None = None
    imputed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for name in ("features", "base", "incumbent", "weights", "embeddings"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise InputError(f"The training set has {name} that are not finite: check the images' tokens.")

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """(N,) see `folds_of`."""
        return folds_of(self.groups, self.content)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N, L) bool: there is a label, however little it is believed."""
        return self.weights > 0

    @property
    def stated(self) -> NDArray[np.bool_]:
        """(N, L) bool: known, and by what somebody said."""
        return self.known if self.imputed is None else self.known & ~self.imputed

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on photos of annotators who are not fully believed."""
        if self.imputed is None:
            return ()
        found = {
            "add hardly any tag: what stayed off is not held for wrong": self.imputed.any(axis=1),
            "accept all that is ticked: these photos say nothing": ~self.known.any(axis=1),
        }
        return tuple(f"Annotators of {rows.sum()} photos {what}." for what, rows in found.items() if rows.any())

    @property
    def thresholds(self) -> FloatArray:
        """(L,): fixed, or of least expected cost on a probability, 1 / (1 + add_costs)."""
        found = cost_thresholds(np.full(len(self.tags), NEUTRAL, dtype=np.float32), self.add_costs)
        fixed = self.fixed_thresholds
        return found if fixed is None else np.where(np.isnan(fixed), found, fixed)

    def ticked(self, log_odds: FloatArray, thresholds: FloatArray) -> NDArray[np.bool_]:
        """Ticks by log-odds; where `most_ticked` is set, the best of each image.

        Args:
            log_odds: (N, L) of all tags of the set.
            thresholds: (L,) of scores, in [0, 1]: a tick is strictly above.

        Returns:
            (N, L) bool; tags that tie for the last place are all ticked.
        """
        scores = sigmoid(log_odds)
        ticked: NDArray[np.bool_] = scores > thresholds
        if self.most_ticked is not None and self.most_ticked < len(self.tags):
            ticked &= scores >= np.partition(scores, -self.most_ticked, axis=1)[:, [-self.most_ticked]]
        return ticked

    def edits(self, log_odds: FloatArray, thresholds: FloatArray) -> NDArray[np.float64]:
        """(N,): cost of edits where log-odds (N, L) tick above thresholds (L,).

        A tick on an imputed pair costs what is expected beyond that of leaving
        it off: the incumbent's scores are the probabilities.
        """
        ticked = self.ticked(log_odds, thresholds)
        found = edits(ticked, self.labels, 0.5, self.stated, self.add_costs)
        if self.imputed is not None:
            rows, tags = np.nonzero(ticked & self.imputed)
            expected = 1 - sigmoid(self.incumbent[rows, tags]) * (1 + self.add_costs[tags])
            np.add.at(found, rows, np.maximum(expected, 0))
        return found

    def with_filtered_annotators(self, ticked: NDArray[np.bool_], annotators: Sequence[Hashable]) -> TrainingSet:
        """Without what is no evidence; imputed pairs as the incumbent has them.

        Where they were left out instead, hardly any "no" would be known of a
        tag that its annotator keeps, and ticks on new photos would cost nothing.

        Args:
            ticked: (N, L) tags that were ticked when the annotator began.
            annotators: of the N images.
        """
        nothing, imputed = filter_annotators(sigmoid(self.base), self.labels, self.known, ticked, annotators)
        labels = self.labels.copy()
        for row in np.flatnonzero(imputed.any(axis=1)):
            chance = np.random.default_rng(int(self.content[row][:16], 16)).random(len(self.tags))  # each round's
            labels[row] |= imputed[row] & (chance < sigmoid(self.incumbent[row]))
        return replace(self, labels=labels, weights=self.weights * ~nothing, imputed=imputed)

    def take(self, rows: Rows) -> TrainingSet:
        """The training set of some images, by index in that order or by mask."""
        places = np.asarray(rows)
        places = np.flatnonzero(places) if places.dtype == np.bool_ else places.astype(np.int64)
        arrays = ("features", "base", "incumbent", "labels", "weights", "groups")
        taken: dict[str, Any] = {name: getattr(self, name)[places] for name in arrays}
        if self.incumbent is self.base:
            taken["incumbent"] = taken["base"]
        tokens = None if self.tokens is None else self.tokens[places]
        imputed = None if self.imputed is None else self.imputed[places]
        return replace(
            self, **taken, tokens=tokens, imputed=imputed, content=tuple(self.content[place] for place in places)
        )


def folds_of(groups: NDArray[np.int64], content: Sequence[str]) -> NDArray[np.int64]:
    """Cross-fitting fold of each image, in [0, `FOLDS`), by content hash.

    It follows from the image alone: it is the same in every round, and a version
    can be read on its own training images by the fit that left their fold out. A
    later near-duplicate may move a group to another fold: the incumbent then looks
    better than it is, and a successor needs more, never less.

    Args:
        groups: (N,) from `group_near_duplicates`.
        content: N content hashes; a group's fold follows from the first of its
            members in alphabetical order.
    """
    first: dict[int, str] = {}
    for group, each in zip(groups.tolist(), content, strict=True):
        first[group] = min(first.get(group, each), each)
    digests = {group: hashlib.sha256(f"fold:{each}".encode()).digest() for group, each in first.items()}
    return np.array([digests[group][0] % FOLDS for group in groups.tolist()], dtype=np.int64)
