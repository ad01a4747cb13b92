"""What training and gate do to edits per photo: power, nothing to win, annotators, near-duplicates.

    python benchmarks/gate_simulation.py --data DIR [--only power nothing annotators bursts] [--share 0.1]

Photos of the val splits of `coco_objects` (the 40 most frequent tags of train and val) and `flickr8k_tags` (160 tags)
are corrected as what is served shows them; what is served then is measured on the test splits, by the sets' own labels.
Incumbents: (a) the starter of release 0147a08 with its thresholds of best F1; (b) its scores at .5, with 2 logits
planted on their 8 most frequent tags, down and up in turn; (c) the starter as it is.

Projects with nothing to win have 14 rounds, at 30 photos and then at half as many again, up to 5,839: photos are drawn
with replacement, with labels of their own: drawn from the incumbent's probabilities, or those of another photo. Their
features are brought to 64 random projections, and their photos are the same in all runs. Other projects end with the
real photos of their set: ten rounds of annotators and the rounds of labels that are partly mixed up are that many.

Every line is a claim with its limit, in order of `--only`; intervals are 95 % ones, over draws (Wilson's for shares,
normal for means). `--share` scales the number of draws.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from annotated_photos import Served, against, annotated, edits_of, in_processes, learning_round
from numpy.typing import NDArray
from scipy.stats import binomtest

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.bundle import STARTER
from ram_backend.models.calibration import NEUTRAL, sigmoid
from ram_backend.models.registry import find_bundle
from ram_backend.settings import Settings, load_settings

FROZEN = Path(__file__).with_name("starter_0147a08.json")
"""Slope, offset and threshold that release 0147a08 gave the tags of the sets."""
TAGS = {"coco_objects": 40, "flickr8k_tags": 160}
LEAST_SERVED = {
    ("coco_objects", "(a)"): {50: 0.1, 100: 0.4, 135: 0.8},
    ("coco_objects", "(b)"): {50: 0.25, 100: 0.55},
    ("flickr8k_tags", "(a)"): {30: 0.75, 50: 0.95, 100: 0.99, 300: 1.0},
    ("flickr8k_tags", "(b)"): {30: 0.9, 50: 0.99},
}
"""Share of draws in which a version has to be served, by number of photos."""
MOST_EDITS = {("flickr8k_tags", "(a)", 50): 2.97, ("flickr8k_tags", "(a)", 300): 2.91}
FIRST, GROWTH, ROUNDS = 30, 1.5, 14
MOST_ANNOTATED = 300
PROJECTIONS = 64
PLANTED_TAGS, PLANTED = 8, 2.0
BURST, NOISE = 5, 0.02
"""Near-duplicates of a photo; spread of their features, relative to that of all photos."""
HALF = {"coco_objects": 50, "flickr8k_tags": 30}
"""Photos of honest annotators, alone and beside as many of some who accept everything."""

BoolArray = NDArray[np.bool_]
Truth = Callable[[Served | None], float]


@dataclass(frozen=True)
class Outcome:
    """A project after its rounds: versions served, true edits per photo at first, in the end, and at worst."""

    served: int
    before: float
    after: float
    worst: float


def project(
    pool: TrainingSet,
    sizes: Sequence[int],
    truth: Truth,
    seed: int,
    kinds: Sequence[str] = ("honest",),
    *,
    shuffle: bool = True,
    look_alikes: bool = True,
) -> Outcome:
    """Trains when there are that many corrections; what is accepted is served from then on.

    Args:
        pool: photos with what is right for them; the bundle's is what is served first.
        sizes: numbers of corrected photos, rising.
        truth: edits per photo of what is served.
        seed: of the photos' order and of all that is drawn.
        kinds: of annotators, in turn: honest, removes, misses, accepts.
        shuffle: False: photos come in the pool's order.
        look_alikes: False: each photo is a group of its own.
    """
    random = np.random.default_rng([seed, 4])
    order = np.random.default_rng(seed).permutation(len(pool)) if shuffle else np.arange(len(pool))
    pool = pool.take(order[: max(sizes)])
    annotators = np.arange(len(pool)) % len(kinds)
    labels, ticked = np.zeros_like(pool.labels), np.zeros_like(pool.labels)
    served, count, done = None, 0, 0
    before = after = worst = truth(None)
    for size in sizes:
        new = pool.take(np.arange(done, size))
        ticked[done:size] = ticks(new, served)
        labels[done:size] = annotated_by(new, ticked[done:size], annotators[done:size], kinds, random)
        some = against(replace(pool.take(np.arange(size)), labels=labels[:size]), served)
        some = some.with_filtered_annotators(ticked[:size], annotators[:size].tolist())
        found = learning_round(some, served, 100 * seed + size, look_alikes=look_alikes)
        done = size
        if found.served is not None:
            served, count = found.served, count + 1
            after = truth(served)
            worst = max(worst, after)
    return Outcome(count, before, after, worst)


def made(make: Callable[[int], TrainingSet], sizes: Sequence[int], truth: Truth, seed: int, **options: Any) -> Outcome:
    """A project of the photos that `make` gives for the seed."""
    return project(make(seed), sizes, truth, seed, **options)


def ticks(pool: TrainingSet, served: Served | None) -> BoolArray:
    """What annotators find ticked."""
    if served is None:
        return sigmoid(pool.base) > pool.incumbent_thresholds
    return sigmoid(served.candidate.delta.log_odds(pool.base, pool.features)) > pool.thresholds


def annotated_by(
    pool: TrainingSet,
    ticked: BoolArray,
    annotators: NDArray[np.int64],
    kinds: Sequence[str],
    random: np.random.Generator,
) -> BoolArray:
    """Corrections of annotators of these kinds."""
    seen = {
        "honest": pool.labels,
        "removes": pool.labels & ticked,
        "misses": pool.labels & (ticked | (random.random(ticked.shape) > 0.3)),
        "accepts": ticked,
    }
    found: BoolArray = np.stack([seen[kind] for kind in kinds])[annotators, np.arange(len(pool))] & pool.known
    return found


def growing(photos: int) -> list[int]:
    """Numbers of corrections at which a project trains, the last one at all photos."""
    sizes = [round(FIRST * GROWTH**number) for number in range(ROUNDS)]
    return [size for size in sizes if size < photos] + [photos] * (photos <= sizes[-1])


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


def many(pool: TrainingSet, photos: int) -> TrainingSet:
    """So many photos of the pool, drawn with replacement; none is like another."""
    random = np.random.default_rng(0)
    rows = random.integers(0, len(pool), photos)
    features = (pool.features - pool.features.mean(axis=0)) / (pool.features.std(axis=0) + 1e-3)
    projected = features @ random.normal(size=(features.shape[1], PROJECTIONS)) / features.shape[1] ** 0.5
    return replace(
        pool.take(rows),
        features=projected[rows].astype(np.float32),
        content=tuple(hashlib.sha256(f"{row}".encode()).hexdigest() for row in range(photos)),
        groups=np.arange(photos),
    )


def drawn(pool: TrainingSet, seed: int) -> TrainingSet:
    """Labels drawn from the scores: the incumbent is optimal."""
    chance = np.random.default_rng([seed, 1]).random(pool.base.shape)
    return replace(pool, labels=(chance < sigmoid(pool.base.astype(np.float64))) & pool.known)


def swapped(pool: TrainingSet, share: float, seed: int) -> TrainingSet:
    """A share of the photos gets each other's labels."""
    random = np.random.default_rng([seed, 2])
    some = random.permutation(len(pool))[: round(share * len(pool))]
    other = random.permutation(some)
    labels, weights = pool.labels.copy(), pool.weights.copy()
    labels[some], weights[some] = pool.labels[other], pool.weights[other]
    return replace(pool, labels=labels, weights=weights)


def in_bursts(pool: TrainingSet, seed: int) -> TrainingSet:
    """Labels drawn for each photo, and `BURST` near-duplicates of it: features and scores nearly its own."""
    random = np.random.default_rng([seed, 3])
    rows = np.repeat(random.permutation(len(pool))[: len(pool) // BURST], BURST)
    photos = drawn(pool, seed).take(rows)
    spread = NOISE * photos.features.std(axis=0)
    features = photos.features + spread * random.normal(size=photos.features.shape)
    content = tuple(hashlib.sha256(f"{seed} {row}".encode()).hexdigest() for row in range(len(rows)))
    return replace(photos, features=features.astype(np.float32), content=content)


def expected_edits(pool: TrainingSet) -> Truth:
    """Edits per photo where labels follow the pool's own scores."""
    truth = sigmoid(pool.base.astype(np.float64))

    def edits(served: Served | None) -> float:
        return float((np.where(ticks(pool, served), 1 - truth, truth) * pool.known).sum(axis=1).mean())

    return edits


def share(title: str, hits: Sequence[bool], *, least: float | None = None, most: float | None = None) -> bool:
    """Prints a claim on a share of the draws."""
    count = sum(hits)
    found = binomtest(count, len(hits)).proportion_ci(method="wilson")
    limit = f"at least {100 * least:.0f} %" if least is not None else f"at most {100 * (most or 0):.1f} %"
    value = count / len(hits)
    kept = value >= least - 1e-9 if least is not None else value <= (most or 0) + 1e-9
    interval = f"{100 * value:.1f} % ({100 * found.low:.0f} to {100 * found.high:.0f} %) of {len(hits)}"
    return _row(title, limit, interval, kept)


def mean(title: str, values: Sequence[float], most: float, form: str = "{:+.2%}") -> bool:
    """Prints a claim on the mean of the draws."""
    average, half = float(np.mean(values)), 1.96 * float(np.std(values)) / len(values) ** 0.5
    interval = f"{form.format(average)} ± {form.format(half).lstrip('+')}, {len(values)} draws"
    return _row(title, f"at most {form.format(most)}", interval, average <= most)


def _row(title: str, limit: str, measured: str, kept: bool) -> bool:
    print(f"| {title} | {limit} | {measured} | {'ok' if kept else '**missed**'} |", flush=True)
    return kept


class Simulations:
    """The pools of one set, and what is simulated with them. Each simulation returns whether its claims hold."""

    def __init__(self, name: str, val: TrainingSet, test: TrainingSet, processes: int, scale: float) -> None:
        self.name, self.val, self.test = name, val, test
        self.processes, self.scale = processes, scale
        self.measured = partial(edits_of, at_half(test))

    def _run(self, draws: int, work: Callable[[int], Outcome]) -> list[Outcome]:
        return in_processes(work, range(max(2, round(draws * self.scale))), self.processes)

    def _harmless(self, title: str, found: Sequence[Outcome]) -> list[bool]:
        """Edits as served in the end, and shares of projects with a version that was worse."""
        return [
            mean(f"{title}: change of edits", [one.after / one.before - 1 for one in found], 0.01),
            share(f"{title}: > 2 % worse", [one.worst > 1.02 * one.before for one in found], most=0.05),
        ]

    def power(self) -> list[bool]:
        """How often a version is served, by incumbent and number of photos."""
        counts = sum((pool.labels & pool.known).sum(axis=0) for pool in (self.val, self.test))
        pools = {
            "(a)": (self.val, self.test),
            "(b)": (planted(self.val, counts), planted(self.test, counts)),
            "(c)": (at_half(self.val), at_half(self.test)),
        }
        kept = []
        for incumbent, (val, test) in pools.items():
            limits = LEAST_SERVED.get((self.name, incumbent), LEAST_SERVED[self.name, "(a)"])
            for count, least in limits.items():
                found = self._run(40, partial(project, val, [count], partial(edits_of, test)))
                title = f"{self.name} {incumbent}, {count} photos"
                if incumbent == "(c)":
                    kept += self._harmless(title, found)
                    continue
                kept.append(share(f"{title}: served", [one.served > 0 for one in found], least=least))
                most = MOST_EDITS.get((self.name, incumbent, count), found[0].before)
                kept.append(mean(f"{title}: edits as served", [one.after for one in found], most, "{:.3f}"))
        return kept

    def nothing(self) -> list[bool]:
        """Up to fourteen rounds without anything to win, and with labels that are partly mixed up."""
        sizes, real = growing(10**6), at_half(self.val)
        pool = many(real, sizes[-1])
        alone = {"shuffle": False, "look_alikes": False}
        # edits of shuffled labels can't be measured: the test photos have other features
        found = self._run(200, partial(made, partial(swapped, pool, 1.0), sizes, lambda _: 1.0, **alone))
        kept = [share(f"{self.name}, shuffled, 14 rounds: served", [one.served > 0 for one in found], most=0.05)]
        if self.name == "coco_objects":  # of 160 tags it takes an hour
            found = self._run(200, partial(made, partial(drawn, pool), sizes, expected_edits(pool), **alone))
            title = f"{self.name}, optimal already, 14 rounds"
            kept.append(share(f"{title}: served", [one.served > 0 for one in found], most=0.05))
            kept.append(share(f"{title}: > 1 % worse", [one.worst > 1.01 * one.before for one in found], most=0.02))
        sizes = growing(len(real))
        for title, part, most in (("half shuffled", 0.5, 0.02), ("a tenth swapped", 0.1, 0.01)):
            found = self._run(40, partial(made, partial(swapped, real, part), sizes, self.measured))
            changes = [one.after / one.before - 1 for one in found]
            kept.append(mean(f"{self.name}, {title}, {len(sizes)} rounds: change of edits", changes, most))
        return kept

    def annotators(self) -> list[bool]:
        """Ten rounds with annotators of different kinds, and what accept-all costs the honest half."""
        pool = at_half(self.val)
        sizes = np.geomspace(FIRST, min(len(pool), MOST_ANNOTATED), 10).round().astype(int).tolist()
        kept = []
        for kinds in (("removes",), ("misses",), ("accepts",), ("honest", "accepts")):
            found = self._run(30, partial(project, pool, sizes, self.measured, kinds=kinds))
            title = f"{self.name}, {' and '.join(kinds)}, ten rounds"
            kept += self._harmless(title, found)
            if kinds == ("accepts",):
                kept.append(share(f"{title}: served", [one.served > 0 for one in found], most=0))
        few = HALF[self.name]
        truth = partial(edits_of, self.test)

        def one(seed: int, kinds: Sequence[str], step: int) -> Outcome:
            rows = np.random.default_rng(seed).permutation(len(self.val))[: 2 * few : step]
            return project(self.val.take(rows), [len(rows)], truth, seed, kinds, shuffle=False)

        alone = self._run(40, lambda seed: one(seed, ("honest",), 2))
        both = self._run(40, lambda seed: one(seed, ("honest", "accepts"), 1))
        power = float(np.mean([one.served > 0 for one in alone]))
        title = f"{self.name} (a), {few} honest photos and {few} accepted: served"
        kept.append(share(title, [one.served > 0 for one in both], least=power))
        return kept

    def bursts(self) -> list[bool]:
        """Near-duplicates without anything to win, one look; and what folds over photos would accept."""
        pool = at_half(self.val)
        size = BURST * (len(pool) // BURST)
        truth = expected_edits(pool)
        kept = []
        for title, draws, groups in (("groups", 200, True), ("photos", 40, False)):
            found = self._run(draws, partial(made, partial(in_bursts, pool), [size], truth, look_alikes=groups))
            served = [one.served > 0 for one in found]
            limit: dict[str, float] = {"most": 0.025} if groups else {"least": 0.1}
            kept.append(share(f"{self.name}, bursts of five, folds over {title}: served", served, **limit))
        return kept


def frozen(pool: TrainingSet, slope: NDArray[np.float32], offset: NDArray[np.float32]) -> TrainingSet:
    """Under the calibration and the thresholds of release 0147a08, whose logits are today's."""
    known = json.loads(FROZEN.read_text())
    then = np.array([known[tag] for tag in pool.tags], dtype=np.float32)
    base = (pool.base - offset) / slope * then[:, 0] + then[:, 1]
    return replace(pool, base=base, incumbent=base, base_thresholds=then[:, 2], incumbent_thresholds=then[:, 2])


def pools(data: Path, name: str, settings: Settings, threads: int) -> tuple[TrainingSet, TrainingSet]:
    """Val and test photos of a set; scored once."""
    bundle = find_bundle(STARTER, settings.bundles_dir)
    cached = settings.cache_dir / "gate-simulation" / f"{name}-{bundle.digest[:16]}.pickle"
    if not cached.is_file():
        photos = annotated(data, name, bundle, settings, threads=threads)
        counts = photos.labels[photos.rows("train", "val")].sum(axis=0)
        columns = np.sort(np.argsort(-counts, kind="stable")[: TAGS[name]])
        calibration = photos.subset.calibration
        slope, offset = calibration.slope[columns], calibration.offset[columns]
        asked = photos.asking(columns)
        found = tuple(frozen(asked.without_tokens(photos.rows(split)), slope, offset) for split in ("val", "test"))
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(pickle.dumps(found))
    return pickle.loads(cached.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--only", nargs="+", default=("power", "bursts", "nothing", "annotators"))
    parser.add_argument("--sets", nargs="+", default=list(TAGS), choices=list(TAGS))
    parser.add_argument("--share", type=float, default=1.0, help="of the draws")
    parser.add_argument("--threads", type=int, default=2, help="for scoring")
    parser.add_argument("--processes", type=int, default=2, help="for the draws")
    chosen, settings = parser.parse_args(), load_settings()
    print("| claim | limit | measured | |\n| --- | --- | --- | --- |", flush=True)
    started, kept = time.monotonic(), []
    of_set = [
        Simulations(name, *pools(chosen.data, name, settings, chosen.threads), chosen.processes, chosen.share)
        for name in chosen.sets
    ]
    for each in chosen.only:
        for simulations in of_set:
            kept += getattr(simulations, each)()
            spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            passed = f"{time.monotonic() - started:.0f} s, {spent:.0f} s of CPU"
            print(f"{simulations.name} {each}: {passed}", file=sys.stderr, flush=True)
    print(f"\n{sum(kept)} of {len(kept)} claims hold.")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
