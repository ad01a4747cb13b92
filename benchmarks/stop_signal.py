"""Where the report says "label something else", and where the learning curve flattens.

    python benchmarks/stop_signal.py --data DIR --base DIR [--split test] [--seeds 16] [--first 0] [--out draws.json]

A simulated annotator (see `annotated_photos.py`) corrects photos of the train split of `flickr8k_tags` in the order
that is served, and the product trains by itself: with 30 photos, then with half as many again. Fit, gate and the
report's estimate are the product's. The curve is that of edits per photo on a split that nobody corrected, the mean of
all draws at each hundred photos; it is smoothed by a + b / n^c, and flat where 100 more photos save less than .01.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from active_learning import served as priority
from active_learning import taken_and_left
from annotated_photos import SET, AnnotatedPhotos, annotated, edits_of, in_processes, learning_round, open_base
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from ram_backend.console.report import MORE, WORTH_IT, expected_saving
from ram_backend.settings import load_settings
from ram_backend.training.selection import fit_candidate

FIRST, CURVE_FROM = 30, 200
NEAR = 0.25


def draw(photos: AnnotatedPhotos, measured: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """One project: its steps (photos of the parent, own, saved), and the curve (photos, edits)."""
    pool, unseen = np.random.default_rng(seed).permutation(photos.rows("train")), photos.without_tokens(measured)
    trainings = [FIRST]
    while (count := -(-3 * trainings[-1] // 2)) <= len(pool):
        trainings.append(count)
    served, taken, left = None, pool[:0], pool
    steps: list[tuple[int, int, float]] = []
    for count in trainings:
        delta = None if served is None else served.candidate.delta
        taken, left = taken_and_left(photos, taken, left, count, delta, priority)
        found = learning_round(photos.without_tokens(taken), served, seed)
        figures = found.verdict.figures
        if served is not None and "edits_candidate" in figures:
            steps.append((len(served.content), count, figures["edits_incumbent"] - figures["edits_candidate"]))
        served = found.served or served
    curve = []
    for count in range(CURVE_FROM, len(taken), MORE):
        candidate = fit_candidate(photos.without_tokens(taken[:count]), seed=seed)
        curve.append((count, edits_of(unseen, candidate)))
    return {"seed": seed, "steps": steps, "curve": curve}


def flat_from(curves: NDArray[np.float64]) -> float:
    """Number of photos where the smoothed mean of curves (draws, points, 2) falls by less than `WORTH_IT`."""
    counts, edits = curves.mean(axis=0).T

    def curve(count: Any, level: float, slope: float, power: float) -> Any:
        return level + slope * (count / CURVE_FROM) ** -power

    found, _ = curve_fit(curve, counts, edits, p0=(edits[-1], edits[0] - edits[-1], 0.5), maxfev=20_000)
    many = np.arange(CURVE_FROM, 10 * counts[-1])
    return float(many[np.argmax(curve(many, *found) - curve(many + MORE, *found) < WORTH_IT)])


def fires_at(steps: list[tuple[int, int, float]]) -> int | None:
    """Photos at the first training after which the report says so."""
    for place in range(2, len(steps) + 1):
        saving = expected_saving(steps[:place])
        if saving is not None and saving < WORTH_IT:
            return steps[place - 1][1]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, required=True, help="starter built without the set, or a bundle")
    parser.add_argument("--split", nargs="+", default=["test"], choices=("val", "test"), help="of what is measured on")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON of all draws")
    chosen, settings = parser.parse_args(), load_settings()
    photos = annotated(chosen.data, SET, open_base(chosen.base, settings), settings)
    measured = photos.rows(*chosen.split)
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    draws = in_processes(lambda seed: draw(photos, measured, seed), seeds, chosen.processes)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(draws))
    flat = flat_from(np.array([each["curve"] for each in draws]))
    fired = [fires_at(each["steps"]) for each in draws]
    apart = np.array([float("nan") if each is None else each / flat - 1 for each in fired])
    print(f"The mean curve is flat from {flat:.0f} photos on; said at {sorted(fired, key=lambda n: n or 10**6)}.")
    print(
        f"From there: mean {np.nanmean(apart):+.0%}, median {np.nanmedian(apart):+.0%}; within {NEAR:.0%} in"
        f" {int((np.abs(apart) <= NEAR).sum())} of {len(apart)} draws."
    )


if __name__ == "__main__":
    main()
