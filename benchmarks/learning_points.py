"""Quality after learning from some corrected photos: the points of a learning curve, with what they can't tell.

Two intervals, 95 % each: over seeds (which photos were corrected) and over the photos that are measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from annotated_photos import AnnotatedPhotos, edits_of, in_processes, learning_round
from numpy.typing import NDArray

from ram_backend.metrics import calibration_error, mean_average_precision
from ram_backend.models.calibration import sigmoid
from ram_backend.training.selection import Candidate

ALL_FITTED, AS_SERVED = WAYS = ("all fitted", "as served")
RESAMPLES = 200
"""Of the photos that are measured."""
FEWEST_POSITIVES = 3
"""Of a tag, for its average precision to count: `mean_average_precision` takes as many."""
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 20: 2.09}
"""Student's t of a 95 % interval, by number of seeds."""


@dataclass(frozen=True)
class Figures:
    """How good some scores are.

    Attributes:
        edits: per photo, at the thresholds that are served.
        quality: mAP.
        calibration: error.
        resampled: (RESAMPLES,) mAP on resamples of the photos, the same for all figures of these photos.
    """

    edits: float
    quality: float
    calibration: float
    resampled: NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """What one seed brought.

    Attributes:
        figures: of what is served afterwards.
        served: it is the candidate; False: still the bundle.
        seconds: of CPU, the gate's included.
    """

    figures: Figures
    served: bool
    seconds: float


@dataclass(frozen=True)
class Point:
    """All seeds at one number of corrected photos, and the figures before."""

    corrected: int
    before: Figures
    seeds: Sequence[Learned]

    @property
    def quality(self) -> list[float]:
        """MAP by seed."""
        return [one.figures.quality for one in self.seeds]

    @property
    def gain(self) -> str:
        """In mAP, with the interval over seeds."""
        return interval([value - self.before.quality for value in self.quality], "+.3f")

    @property
    def gain_by_photos(self) -> str:
        """Half width of the gain's interval for the photos that are measured."""
        mean = np.mean([one.figures.resampled for one in self.seeds], axis=0)
        return f"± {1.96 * np.std(mean - self.before.resampled, ddof=1):.3f}"

    @property
    def served(self) -> str:
        """Of how many seeds the candidate is served."""
        return f"{sum(one.served for one in self.seeds)} of {len(self.seeds)}"


def measured(
    photos: AnnotatedPhotos, candidate: Candidate | None, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Figures:
    """Figures of a candidate on photos `rows` and tags `columns`; None: the bundle's own."""
    some = photos.without_tokens(rows)
    found = some.base if candidate is None else candidate.delta.log_odds(some.base, some.features)
    found = found[:, columns]
    labels, known = photos.labels[np.ix_(rows, columns)], photos.known[np.ix_(rows, columns)]
    scores = sigmoid(found.astype(np.float64))
    return Figures(
        edits_of(replace(some, labels=photos.labels[rows], weights=_only(photos.known[rows], columns)), candidate),
        mean_average_precision(found, labels, known, FEWEST_POSITIVES),
        calibration_error(scores, labels, known),
        resampled_quality(found, labels, known),
    )


def _only(known: NDArray[np.bool_], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights (N, L) of the known pairs in these columns."""
    weights = np.zeros(known.shape, dtype=np.float32)
    weights[:, columns] = known[:, columns]
    return weights


def resampled_quality(
    scores: NDArray[np.float32], labels: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(RESAMPLES,) mAP on resamples of the photos; all arguments (N, L).

    The tags are those that count on all photos, less what a resample has no positive of. Equal scores are ranked as the
    photos stand; there are next to none.
    """
    count = len(scores)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).T.astype(np.float64)
    total, tags = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for tag in np.flatnonzero((labels & known).sum(axis=0) >= FEWEST_POSITIVES):
        rows = np.flatnonzero(known[:, tag])
        order = rows[np.argsort(-scores[rows, tag], kind="stable")]
        drawn, right = draws[order], labels[order, tag]
        hits, as_high = drawn[right], np.cumsum(drawn, axis=0)[right]
        positives = hits.sum(axis=0)
        precision = np.cumsum(hits, axis=0) / np.maximum(as_high, 1)
        total += (hits * precision).sum(axis=0) / np.maximum(positives, 1)
        tags += positives > 0
    return total / np.maximum(tags, 1)


def curves(
    photos: AnnotatedPhotos, counts: Sequence[int], test: NDArray[np.int64], columns: NDArray[np.int64],
    seeds: int, processes: int,
) -> dict[str, list[Point]]:  # fmt: skip
    """Learns from more and more photos of the train split, per seed in an order of its own; by way."""
    train = photos.rows("train")
    before = measured(photos, None, test, columns)

    def one(case: tuple[int, int]) -> tuple[Learned, Learned]:
        count, seed = case
        rows = train[np.random.default_rng(seed).permutation(len(train))[:count]]
        started = time.process_time()
        found = learning_round(photos.without_tokens(rows), None, seed)
        seconds = time.process_time() - started
        figures = measured(photos, found.candidate, test, columns)
        served = found.served is not None
        return Learned(figures, served, seconds), Learned(figures if served else before, served, seconds)

    found = in_processes(one, list(itertools.product(counts, range(seeds))), processes)
    return {
        way: [Point(count, before, each[at * seeds : (at + 1) * seeds]) for at, count in enumerate(counts)]
        for way, each in zip(WAYS, zip(*found, strict=True), strict=True)
    }


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of a mean over seeds; nan for one seed."""
    return T_95[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def interval(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and half width of its 95 % interval over seeds."""
    return f"{np.mean(values):{form}} ± {half_width(values):.3f}"
