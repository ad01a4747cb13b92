"""Which photos to correct first: edits and mAP by the number of corrected photos, for several strategies.

    python benchmarks/active_learning.py --data DIR --base DIR [--split val] [--seeds 20] [--first 0] [--strategies ...]

A simulated annotator (see `annotated_photos.py`) corrects photos of the train split of `flickr8k_tags` with a starter
that was built without that set. The first `RANDOM_UNTIL` photos are random, and the same for all strategies; afterwards
the photos that are left are ordered anew with what is served after each round, but for one photo in five, which stays
where chance put it. Rounds are where the product trains by itself; the ridge is served without asking the gate.
Differences from random are paired by seed; ± is the half width of their 95 % interval (t over seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from annotated_photos import SET, AnnotatedPhotos, annotated, edits_of, in_processes, open_base
from learning_points import FEWEST_POSITIVES, half_width
from numpy.typing import NDArray

from ram_backend.gate.training_set import TrainingSet
from ram_backend.labelstudio.predictions import RANDOM_UNTIL
from ram_backend.metrics import mean_average_precision
from ram_backend.models.calibration import sigmoid
from ram_backend.models.delta import Delta
from ram_backend.settings import load_settings
from ram_backend.training.drift import Novelty, write_fit_features
from ram_backend.training.selection import RidgeTrainer

COUNTS = (50, 100, 200, 300, 450, 675, 1000, 1500)
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Left:
    """Scores (N, L) and features (N, F) of photos that nobody has corrected yet, features (M, F) of those corrected."""

    scores: FloatArray
    features: NDArray[np.float32]
    corrected: NDArray[np.float32]
    batch: int


def margin(left: Left) -> FloatArray:
    """The mean margin of the ticked tags and as many others, as `margins_of` has them at thresholds of .5."""
    margins, on = np.abs(2 * left.scores - 1), left.scores > 0.5
    ticked = on.sum(axis=1)
    others = np.cumsum(np.sort(np.where(on, np.inf, margins), axis=1), axis=1)
    several = np.maximum(1, ticked)
    nearest = others[np.arange(len(others)), several - 1]
    return ((margins * on).sum(axis=1) + nearest) / (ticked + several)


def expected_edits(left: Left) -> FloatArray:
    """Fewer edits are expected of a photo that is more certain."""
    return -np.minimum(left.scores, 1 - left.scores).sum(axis=1)


def near(left: Left) -> FloatArray:
    """Expected edits of the ticked tags and as many others, those next to their thresholds."""
    doubt, on = np.minimum(left.scores, 1 - left.scores), left.scores > 0.5
    ticked = on.sum(axis=1)
    others = np.cumsum(-np.sort(-np.where(on, 0, doubt), axis=1), axis=1)
    return -((doubt * on).sum(axis=1) + others[np.arange(len(others)), np.maximum(1, ticked) - 1])


def served(left: Left) -> FloatArray:
    """The same, times the squared novelty against the corrected photos: what is served."""
    novelty = Novelty(write_fit_features(left.corrected, ["0" * 64] * len(left.corrected)))
    return near(left) * np.array([novelty.of(each) for each in left.features]) ** 2


def diverse(left: Left, priority: FloatArray | None = None, share: int = 4) -> FloatArray:
    """Greedy k-centre on the features, among the `share` times as many least certain ones (None: among all)."""
    some = np.arange(len(left.scores)) if priority is None else np.argsort(priority)[: share * left.batch]
    unit = left.features / np.linalg.norm(left.features, axis=1, keepdims=True)
    known = left.corrected / np.linalg.norm(left.corrected, axis=1, keepdims=True)
    nearest, order = (unit[some] @ known.T).max(axis=1), np.full(len(left.scores), np.inf)
    for place in range(min(left.batch, len(some))):
        chosen = int(nearest.argmin())
        order[some[chosen]] = place
        nearest = np.maximum(nearest, unit[some] @ unit[some[chosen]])
        nearest[chosen] = np.inf
    return order


STRATEGIES: dict[str, Callable[[Left], FloatArray]] = {
    "served": served,
    "near": near,
    "margin": margin,
    "edits": expected_edits,
    "margin-diverse": lambda left: diverse(left, margin(left)),
    "edits-diverse": lambda left: diverse(left, expected_edits(left)),
    "k-centre": diverse,
}


def curves(
    photos: AnnotatedPhotos, test: NDArray[np.int64], strategies: Sequence[str], seed: int
) -> list[list[tuple[float, float]]]:
    """Edits per photo and mAP of photos `test` at `COUNTS`, by order; they begin with the same photos."""
    pool, measured = np.random.default_rng(seed).permutation(photos.rows("train")), photos.without_tokens(test)
    fitted: dict[bytes, tuple[Delta | None, tuple[float, float]]] = {}
    found = []
    for order in strategies:
        taken, left, delta, points = pool[:0], pool, None, []
        for count in COUNTS:
            taken, left = taken_and_left(photos, taken, left, count, delta, STRATEGIES.get(order))
            if (key := taken.tobytes()) not in fitted:
                fitted[key] = _fitted(photos, taken, measured, photos.labels[test], photos.known[test])
            delta, figures = fitted[key]
            points.append(figures)
        found.append(points)
    return found


def _fitted(
    photos: AnnotatedPhotos, taken: NDArray[np.int64], measured: TrainingSet, labels: NDArray[np.bool_],
    known: NDArray[np.bool_],
) -> tuple[Delta | None, tuple[float, float]]:  # fmt: skip
    some = photos.without_tokens(taken)
    candidate = RidgeTrainer().fit(replace(some, groups=np.arange(len(some))), 0, lambda *_: None)
    delta = None if candidate is None else candidate.delta
    scores = measured.base if delta is None else delta.log_odds(measured.base, measured.features)
    edits = float(measured.edits(scores, measured.thresholds).mean())
    return delta, (edits, mean_average_precision(scores, labels, known, FEWEST_POSITIVES))


def taken_and_left(
    photos: AnnotatedPhotos, taken: NDArray[np.int64], left: NDArray[np.int64], count: int, delta: Delta | None,
    priority: Callable[[Left], FloatArray] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """So many photos in all, and those left then, ordered anew after the random ones; None: never."""
    more = count - len(taken)
    if priority is not None and len(taken) >= RANDOM_UNTIL:
        left = _ordered(photos, taken, left, more, delta, priority)
    return np.concatenate([taken, left[:more]]), left[more:]


def _ordered(
    photos: AnnotatedPhotos, taken: NDArray[np.int64], left: NDArray[np.int64], more: int, delta: Delta | None,
    priority: Callable[[Left], FloatArray],
) -> NDArray[np.int64]:  # fmt: skip
    """The photos that are left: at every fifth place one that chance chose, at the others the least certain ones."""
    by_chance = left % 5 == 0
    chance, ranked = left[by_chance], left[~by_chance]
    some, corrected = photos.without_tokens(ranked), photos.without_tokens(taken)
    log_odds = some.base if delta is None else delta.log_odds(some.base, some.features)
    seen = Left(sigmoid(log_odds.astype(np.float64)), some.features, corrected.features, more)
    ranked = ranked[np.argsort(priority(seen), kind="stable")]
    places = np.concatenate([np.arange(len(chance)) * 5, np.arange(len(ranked)) * 1.25])
    return np.concatenate([chance, ranked])[np.argsort(places, kind="stable")]


def rows(strategies: Sequence[str], found: NDArray[np.float64], before: tuple[float, float]) -> list[str]:
    """Two tables as markdown, from (strategies, seeds, counts, 2)."""
    lines = []
    for which, title in enumerate(("edits per photo", "mAP")):
        lines += [f"**{title}** (without any correction {before[which]:.3f})", ""]
        lines += [f"| order | {' | '.join(map(str, COUNTS))} |", "| --- |" + " --- |" * len(COUNTS)]
        chance = found[strategies.index("random"), :, :, which]
        for order, each in zip(strategies, found[..., which], strict=True):
            if order == "random":
                cells = [f"{np.mean(column):.3f} ± {half_width(column):.3f}" for column in each.T]
            else:
                cells = [f"{np.mean(column):+.3f} ± {half_width(column):.3f}" for column in (each - chance).T]
            lines.append(f"| {order} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, required=True, help="starter built without the set, or a bundle")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="of what is measured on")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed; others than 0 to 19 confirm a choice made on these")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    settings = load_settings()
    photos = annotated(chosen.data, SET, open_base(chosen.base, settings), settings)
    test, strategies = photos.rows(chosen.split), ["random", *chosen.strategies]

    def one(seed: int) -> list[list[tuple[float, float]]]:
        return curves(photos, test, strategies, seed)

    found = np.array(in_processes(one, range(chosen.first, chosen.first + chosen.seeds), chosen.processes))
    found = found.swapaxes(0, 1)
    some = photos.without_tokens(test)
    before = (
        edits_of(some, None),
        mean_average_precision(some.base, photos.labels[test], photos.known[test], FEWEST_POSITIVES),
    )
    print("\n".join(rows(strategies, found, before)))


if __name__ == "__main__":
    main()
