"""What training and gate do to edits per photo: power, nothing to win, annotators, near-duplicates.

    python benchmarks/gate_simulation.py --data DIR [--only power nothing annotators bursts] [--share 0.1]

Photos of the val splits of `coco_objects` (the 40 most frequent tags of train and val) and `flickr8k_tags` (160 tags)
are corrected under a frozen incumbent; what is served then is measured on the test splits, by the sets' own labels.
Incumbents: (a) the starter of release 0147a08 with its thresholds of best F1; (b) its scores at .5, with 2 logits
planted on the 8 most frequent tags, down and up in turn; (c) the starter as it is. Where there is nothing to win,
labels are drawn from the incumbent's own probabilities, or swapped between photos; projects then train up to 14 times,
first at 30 photos, then at half as many again, as far as there are photos.

`--share` scales the number of draws; shares are of draws. Edits before and after are of the same test photos.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from annotated_photos import Served, annotated, edits_of, in_processes, learning_round
from numpy.typing import NDArray

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.bundle import STARTER
from ram_backend.models.calibration import NEUTRAL, sigmoid
from ram_backend.models.registry import find_bundle
from ram_backend.settings import load_settings
from ram_backend.training.annotators import believed_pairs

FROZEN = Path(__file__).with_name("starter_0147a08.json")
"""Slope, offset and threshold that release 0147a08 gave the tags of the sets."""
TAGS = {"coco_objects": 40, "flickr8k_tags": 160}
COUNTS = {"coco_objects": (50, 100, 135), "flickr8k_tags": (30, 50, 100, 300)}
FIRST, GROWTH, ROUNDS = 30, 1.5, 14
PLANTED_TAGS, PLANTED = 8, 2.0
BURST, NOISE = 5, 0.02
"""Near-duplicates of a photo; spread of their features, relative to that of all photos."""

BoolArray = NDArray[np.bool_]
Truth = Callable[[Served | None], float]


@dataclass(frozen=True)
class Outcome:
    """A project after its rounds: versions served, true edits per photo at first, in the end, and at worst."""

    served: int
    before: float
    after: float
    worst: float


def project(pool: TrainingSet, sizes: Sequence[int], truth: Truth, seed: int) -> Outcome:
    """Trains when there are that many corrections, in an order drawn by the seed; what is accepted is served."""
    order = np.random.default_rng(seed).permutation(len(pool))
    served, count = None, 0
    before = after = worst = truth(None)
    for size in sizes:
        found = learning_round(pool.take(order[:size]), served, 100 * seed + size)
        if found.served is not None:
            served, count = found.served, count + 1
            after = truth(served)
            worst = max(worst, after)
    return Outcome(count, before, after, worst)


def growing(photos: int) -> list[int]:
    """Numbers of corrections at which a project trains."""
    sizes = [round(FIRST * GROWTH**number) for number in range(ROUNDS)]
    return [size for size in sizes if size <= photos]


def at_half(pool: TrainingSet) -> TrainingSet:
    """Ticked above .5."""
    half = np.full(len(pool.tags), NEUTRAL, dtype=np.float32)
    return replace(pool, base_thresholds=half, incumbent_thresholds=half)


def planted(pool: TrainingSet, counts: NDArray[np.int64]) -> TrainingSet:
    """Scores at .5, with `PLANTED` logits off on the most frequent tags, down and up in turn."""
    base = pool.base.copy()
    most = np.argsort(-counts, kind="stable")[:PLANTED_TAGS]
    base[:, most] += PLANTED * np.where(np.arange(PLANTED_TAGS) % 2, 1, -1).astype(np.float32)
    return at_half(replace(pool, base=base, incumbent=base))


def with_drawn_labels(pool: TrainingSet, seed: int) -> TrainingSet:
    """Labels drawn from the scores: the incumbent is optimal."""
    drawn = np.random.default_rng([seed, 1]).random(pool.base.shape)
    return replace(pool, labels=drawn < sigmoid(pool.base.astype(np.float64)))


def with_swapped_labels(pool: TrainingSet, share: float, seed: int) -> TrainingSet:
    """A share of the photos gets each other's labels."""
    random = np.random.default_rng([seed, 2])
    some = random.permutation(len(pool))[: round(share * len(pool))]
    other = random.permutation(some)
    labels, weights = pool.labels.copy(), pool.weights.copy()
    labels[some], weights[some] = pool.labels[other], pool.weights[other]
    return replace(pool, labels=labels, weights=weights)


def expected_edits(pool: TrainingSet) -> Truth:
    """Edits per photo where labels follow the pool's own scores."""
    truth = sigmoid(pool.base.astype(np.float64))

    def edits(served: Served | None) -> float:
        log_odds, thresholds = pool.base, pool.incumbent_thresholds
        if served is not None:
            log_odds = served.candidate.delta.log_odds(pool.base, pool.features)
            thresholds = pool.thresholds
        ticked = sigmoid(log_odds) > thresholds
        return float((np.where(ticked, 1 - truth, truth) * pool.known).sum(axis=1).mean())

    return edits


def in_bursts(pool: TrainingSet, seed: int) -> TrainingSet:
    """Labels drawn for each photo, and `BURST` near-duplicates of it: features and scores nearly its own."""
    random = np.random.default_rng([seed, 3])
    rows = np.repeat(random.permutation(len(pool))[: len(pool) // BURST], BURST)
    drawn = with_drawn_labels(pool, seed).take(rows)
    spread = NOISE * drawn.features.std(axis=0)
    features = drawn.features + spread * random.normal(size=drawn.features.shape)
    content = tuple(hashlib.sha256(f"{seed} {row}".encode()).hexdigest() for row in range(len(rows)))
    return replace(drawn, features=features.astype(np.float32), content=content)


def annotated_by(pool: TrainingSet, kinds: Sequence[str], seed: int) -> TrainingSet:
    """Corrections of annotators of these kinds, in turn: honest, removes, misses, accepts."""
    random = np.random.default_rng([seed, 4])
    ticked = sigmoid(pool.base) > pool.incumbent_thresholds
    seen = {
        "honest": pool.labels,
        "removes": pool.labels & ticked,
        "misses": pool.labels & (ticked | (random.random(ticked.shape) > 0.3)),
        "accepts": ticked,
    }
    of_row = random.permutation(np.arange(len(pool)) % len(kinds))
    labels = np.stack([seen[kind] for kind in kinds])[of_row, np.arange(len(pool))] & pool.known
    believed = believed_pairs(sigmoid(pool.base), labels, pool.known, ticked, of_row.tolist())
    return replace(pool, labels=labels, weights=believed.astype(np.float32))


def summary(title: str, found: Sequence[Outcome]) -> str:
    """A line of markdown."""
    before, after, worst = (np.array([getattr(one, name) for one in found]) for name in ("before", "after", "worst"))
    shares = (
        np.mean([one.served > 0 for one in found]),
        np.mean(worst > 1.01 * before),
        np.mean(worst > 1.02 * before),
    )
    served, harmed, badly = (f"{100 * share:.1f} %" for share in shares)
    change = 100 * (after.mean() / before.mean() - 1)
    return (
        f"| {title} | {len(found)} | {served} | {before.mean():.3f} | {after.mean():.3f} | {change:+.1f} % |"
        f" {harmed} | {badly} |"
    )


HEAD = (
    "| simulation | draws | anything served | edits before | after | change | a version > 1 % worse | > 2 % worse |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


class Simulations:
    """The pools of one set, and what is simulated with them."""

    def __init__(self, name: str, val: TrainingSet, test: TrainingSet, processes: int, share: float) -> None:
        self.name, self.val, self.test = name, val, test
        self.processes, self.share = processes, share

    def _run(
        self, title: str, draws: int, made: Callable[[int], TrainingSet], sizes: Sequence[int], truth: Truth
    ) -> None:
        """Projects of the pools that `made` gives for each seed."""
        seeds = range(max(1, round(draws * self.share)))
        found = in_processes(lambda seed: project(made(seed), sizes, truth, seed), seeds, self.processes)
        print(summary(f"{self.name}: {title}", found), flush=True)

    def power(self) -> None:
        """How often a version is served, by incumbent and number of photos."""
        counts = (self.val.labels & self.val.known).sum(axis=0)
        pools = {
            "(a)": (self.val, self.test),
            "(b)": (planted(self.val, counts), planted(self.test, counts)),
            "(c)": (at_half(self.val), at_half(self.test)),
        }
        for incumbent, (val, test) in pools.items():
            for count in COUNTS[self.name]:
                self._run(f"{incumbent} {count} photos", 40, partial(_same, val), [count], partial(edits_of, test))

    def nothing(self) -> None:
        """Up to fourteen rounds without anything to win, and with labels that are partly mixed up."""
        pool, measured = at_half(self.val), partial(edits_of, at_half(self.test))
        sizes = growing(len(pool))
        self._run("optimal already", 200, partial(with_drawn_labels, pool), sizes, expected_edits(pool))
        for title, share, draws in (("shuffled", 1.0, 200), ("half shuffled", 0.5, 40), ("a tenth swapped", 0.1, 40)):
            self._run(title, draws, partial(with_swapped_labels, pool, share), sizes, measured)

    def annotators(self) -> None:
        """Ten rounds with annotators of different kinds."""
        pool, measured = at_half(self.val), partial(edits_of, at_half(self.test))
        for kinds in (("removes",), ("misses",), ("accepts",), ("honest", "accepts")):
            made = partial(annotated_by, pool, kinds)
            self._run(f"annotator {' and '.join(kinds)}", 30, made, growing(len(pool))[:10], measured)

    def bursts(self) -> None:
        """Near-duplicates without anything to win, one look."""
        pool = at_half(self.val)
        size = BURST * (len(pool) // BURST)
        self._run("bursts of five", 200, partial(in_bursts, pool), [size], expected_edits(pool))


def _same(pool: TrainingSet, _seed: int) -> TrainingSet:
    return pool


def frozen(pool: TrainingSet, slope: NDArray[np.float32], offset: NDArray[np.float32]) -> TrainingSet:
    """Under the calibration and the thresholds of release 0147a08, whose logits are today's."""
    known = json.loads(FROZEN.read_text())
    then = np.array([known[tag] for tag in pool.tags], dtype=np.float32)
    base = (pool.base - offset) / slope * then[:, 0] + then[:, 1]
    return replace(pool, base=base, incumbent=base, base_thresholds=then[:, 2], incumbent_thresholds=then[:, 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--only", nargs="+", default=("power", "nothing", "annotators", "bursts"))
    parser.add_argument("--sets", nargs="+", default=list(TAGS), choices=list(TAGS))
    parser.add_argument("--share", type=float, default=1.0, help="of the draws")
    parser.add_argument("--threads", type=int, default=2, help="for scoring")
    parser.add_argument("--processes", type=int, default=2, help="for the draws")
    chosen = parser.parse_args()
    settings = load_settings()
    print(HEAD, flush=True)
    for name in chosen.sets:
        photos = annotated(
            chosen.data, name, find_bundle(STARTER, settings.bundles_dir), settings, threads=chosen.threads
        )
        counts = photos.labels[photos.rows("train", "val")].sum(axis=0)
        columns = np.sort(np.argsort(-counts, kind="stable")[: TAGS[name]])
        calibration = photos.subset.calibration
        slope, offset = calibration.slope[columns], calibration.offset[columns]
        asked = photos.asking(columns)
        val, test = (frozen(asked.without_tokens(photos.rows(split)), slope, offset) for split in ("val", "test"))
        simulations = Simulations(name, val, test, chosen.processes, chosen.share)
        for each in chosen.only:
            getattr(simulations, each)()


if __name__ == "__main__":
    main()
