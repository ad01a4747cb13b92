"""What share of ticks is right on photos that nobody corrected, where a project asks for a precision.

    python benchmarks/precision.py --data DIR --base DIR [--precision 0.9] [--corrected 300] [--seeds 10] [--first 0]

A simulated annotator (see `annotated_photos.py`) corrects so many photos of the train split of `flickr8k_tags`, drawn
by chance. What was learned is served whatever the gate says, and ticks the photos of val and test that are measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from annotated_photos import SET, annotated, in_processes, open_base
from learning_points import half_width

from ram_backend.models.calibration import sigmoid
from ram_backend.projects.options import ProjectOptions
from ram_backend.settings import load_settings
from ram_backend.training.selection import fit_candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, required=True, help="starter built without the set, or a bundle")
    parser.add_argument("--precision", type=float, default=0.9)
    parser.add_argument("--corrected", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    chosen, settings = parser.parse_args(), load_settings()
    photos = annotated(chosen.data, SET, open_base(chosen.base, settings), settings)
    train, measured = photos.rows("train"), photos.rows("val", "test")
    options, unseen = ProjectOptions(precision=chosen.precision), photos.without_tokens(measured)
    right, known = photos.labels[measured], photos.known[measured]

    def one(seed: int) -> tuple[float, float]:
        rows = np.random.default_rng(seed).permutation(train)[: chosen.corrected]
        delta = fit_candidate(photos.without_tokens(rows), seed=seed).delta
        scores = sigmoid(delta.log_odds(unseen.base, unseen.features).astype(np.float64))
        thresholds = np.array([options.threshold_of([tag], chosen.corrected) for tag in delta.tags], dtype=np.float64)
        ticked = (scores > thresholds) & known
        return float(right[ticked].mean()), float(ticked.sum(axis=1).mean())

    found = np.array(in_processes(one, range(chosen.first, chosen.first + chosen.seeds), chosen.processes))
    shares, ticks = found.T
    before = options.threshold_of([photos.training_set.tags[0]], 0)
    print(
        f"Asked {chosen.precision}: of {ticks.mean():.2f} ticks a photo {shares.mean():.3f} ± {half_width(shares):.3f}"
        f" are right ({shares.min():.3f} to {shares.max():.3f}); before any correction the threshold is {before}."
    )


if __name__ == "__main__":
    main()
