"""What corrections are worth: quality on photos that nobody corrected, by the number of photos that somebody did.

    python benchmarks/learning_curve.py --data DIR [--base DIR] [--unseen DIR] [--plot out.png] [--split val]

A simulated annotator (see `annotated_photos.py`) corrects photos of the train split of `flickr8k_tags` with a starter
that was built without that set; what was learned is measured on the val split. Without `--base` and `--unseen` the two
starters are built first, which takes about a quarter of an hour on two cores each.

Two curves: "all fitted" learns from all n corrected photos, "as served" is the product's way: part of them is kept for
the gate, and what is served was fitted on the others only (see `training/split.py`). Intervals are 95 % ones (t) over
seeds, which draw the photos that are corrected.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from annotated_photos import AnnotatedPhotos, annotated, open_base
from numpy.typing import NDArray

from ram_backend.metrics import calibration_error, f1, mean_average_precision
from ram_backend.models import STARTER, find_bundle
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging import Tagger, whole_vocabulary
from ram_backend.training.candidates import Candidate, fit_candidate
from ram_backend.training.recalibration import sigmoid
from ram_backend.training.split import group_alike, split
from ram_backend.training.starter import build_starter
from ram_backend.training.starter_data import set_tags

SET = "flickr8k_tags"
COUNTS = (50, 100, 200, 300, 500, 1000, 1900)
FEW_COUNTS = (100, 300, 1000)
"""Of tags that no training saw."""
WAYS = ("all fitted", "as served")
SEEDS = 10
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
UNSEEN_TAGS, UNSEEN_SEED = 32, 2024
FREQUENT_TRAIN, FREQUENT_TEST = 5, 3
PALETTE = ("#1f6f8b", "#c8553d", "#7a7a7a")


@dataclass(frozen=True)
class Point:
    """Figures of several seeds at one number of corrected photos; lists have an entry per seed."""

    corrected: int
    fitted: list[int]
    quality: list[float]
    micro_f1: list[float]
    calibration: list[float]
    seconds: list[float]


def learned(photos: AnnotatedPhotos, rows: NDArray[np.int64], way: str, seed: int) -> tuple[Candidate, int]:
    """The candidate after photos `rows` were corrected, and how many of them it was fitted on."""
    material = photos.material.take(rows)
    if way == "all fitted":
        return fit_candidate(material, group_alike(material.phash, material.content), seed=seed), len(rows)
    parts = split(material)
    return fit_candidate(material.take(parts.fit), parts.groups[parts.fit], seed=seed), len(parts.fit)


def measured(
    photos: AnnotatedPhotos, candidate: Candidate | None, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[float, float, float]:
    """MAP, micro F1 at the shipped thresholds and calibration error on photos `rows`; None: the bundle's own."""
    material = photos.material
    found, thresholds = material.base[rows], material.base_thresholds
    if candidate is not None:
        found, thresholds = candidate.logits(found, material.features[rows]), candidate.delta.thresholds
    labels, known = photos.labels[np.ix_(rows, columns)], photos.known[np.ix_(rows, columns)]
    scores = sigmoid(found[:, columns].astype(np.float64))
    return (
        mean_average_precision(found[:, columns], labels, known),
        f1(scores, labels, thresholds[columns], known),
        calibration_error(scores, labels, known),
    )


def curve(
    photos: AnnotatedPhotos, way: str, counts: Sequence[int], test: NDArray[np.int64],
    columns: NDArray[np.int64] | None = None, seeds: int = SEEDS,
) -> list[Point]:  # fmt: skip
    """Learns from more and more photos of the train split, per seed in an order of its own."""
    train = photos.rows("train")
    columns = np.arange(len(photos.material.tags)) if columns is None else columns
    points = []
    for count in counts:
        point = Point(count, [], [], [], [], [])
        for seed in range(seeds):
            rows = train[np.random.default_rng(seed).permutation(len(train))[:count]]
            started = time.process_time()
            candidate, fitted = learned(photos, rows, way, seed)
            point.seconds.append(time.process_time() - started)
            point.fitted.append(fitted)
            for values, value in zip(
                (point.quality, point.micro_f1, point.calibration),
                measured(photos, candidate, test, columns),
                strict=True,
            ):
                values.append(value)
        points.append(point)
    return points


def interval(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and half width of its 95 % interval."""
    half = T_95[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):{form}} ± {half:.3f}"


def table(way: str, base: tuple[float, float, float], points: Sequence[Point]) -> list[str]:
    """A curve as markdown."""
    lines = [f"**{way}**", "", "| corrected | fitted | mAP | gain | micro F1 | calibration error | CPU seconds |"]
    lines.append("| --- |" + " --- |" * 6)
    lines.append(f"| 0 | 0 | {base[0]:.3f} | | {base[1]:.3f} | {base[2]:.3f} | |")
    for point in points:
        gains = [value - base[0] for value in point.quality]
        cells = (
            f"{point.corrected}", f"{np.mean(point.fitted):.0f}", interval(point.quality), interval(gains, "+.3f"),
            interval(point.micro_f1), interval(point.calibration), f"{np.mean(point.seconds):.1f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def outside(photos: AnnotatedPhotos, test: NDArray[np.int64]) -> str:
    """How far tags outside the project move when what 300 corrections taught is served."""
    rows = photos.rows("train")[:300]
    candidate, _ = learned(photos, rows, "as served", 0)
    everything = whole_vocabulary(photos.bundle)
    before, after = (
        Tagger(photos.bundle, photos.network, everything, delta=delta) for delta in (None, candidate.delta)
    )
    assert photos.material.tokens is not None
    tokens = photos.material.tokens[test[:100]].astype(np.float32)
    other = np.array([name not in set(candidate.delta.tags) for name in everything.names])
    moved = np.abs(before.score(tokens).scores - after.score(tokens).scores)
    return (
        f"{other.sum()} tags outside the project on 100 photos: scores move by at most {moved[:, other].max():.3g}"
        f" (the project's {(~other).sum()}: up to {moved[:, ~other].max():.2f})."
    )


def small_set(photos: AnnotatedPhotos, name: str, columns: NDArray[np.int64], seeds: int) -> str:
    """Gain of 100 corrections with the shipped starter."""
    test = photos.rows("val", "test")
    base = measured(photos, None, test, columns)
    cells = []
    for way in WAYS:
        point = curve(photos, way, (100,), test, columns, seeds)[0]
        gains = [value - base[0] for value in point.quality]
        cells.append(f"{interval(point.quality)} ({interval(gains, '+.3f')})")
    return f"| {name} | {len(columns)} | {len(test)} | {base[0]:.3f} | " + " | ".join(cells) + " |"


def frequent(photos: AnnotatedPhotos) -> NDArray[np.int64]:
    """Columns of the tags with enough photos to learn from and to measure on."""
    seen = photos.labels & photos.known
    train, test = (seen[photos.rows(*names)].sum(axis=0) for names in (("train",), ("val", "test")))
    return np.flatnonzero((train >= FREQUENT_TRAIN) & (test >= FREQUENT_TEST))


def draw(out: Path, base: float, curves: dict[str, list[Point]]) -> None:
    """Mean average precision by corrected photos, with the seeds' intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=100)
    axes.axhline(base, color=PALETTE[2], linewidth=1, linestyle="--")
    axes.annotate("before", (COUNTS[-1], base), color=PALETTE[2], va="bottom", ha="right")
    for colour, (way, points) in zip(PALETTE, curves.items(), strict=False):
        counts = [point.corrected for point in points]
        means = np.array([np.mean(point.quality) for point in points])
        half = np.array(
            [T_95[len(point.quality)] * np.std(point.quality, ddof=1) / len(point.quality) ** 0.5 for point in points]
        )
        axes.plot(counts, means, color=colour, marker="o", markersize=3.5, label=way)
        axes.fill_between(counts, means - half, means + half, color=colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS])
    axes.minorticks_off()
    axes.set_xlabel("photos corrected")
    axes.set_ylabel("mAP on photos nobody corrected")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Software": None})


def base_of(given: Path | None, build: Callable[[Path], Path], where: Path) -> Path:
    """The folder that was given, or the one that was built, now or before."""
    if given is not None:
        return given
    return where if where.is_dir() else build(where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, help="starter built without the set, or a bundle; built if not given")
    parser.add_argument("--unseen", type=Path, help="the same, built without 32 of the tags; built if not given")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="of what is measured on")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=sorted(T_95), help="orders of the photos")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    settings = load_settings()
    tags = set_tags(chosen.data, SET)
    held = [tags[row] for row in sorted(np.random.default_rng(UNSEEN_SEED).permutation(len(tags))[:UNSEEN_TAGS])]

    def build(where: Path, without: Sequence[str]) -> Path:
        features = settings.cache_dir / "starter-features"
        return build_starter(
            chosen.data, where, leave_out_sets=[SET], leave_out_tags=without, cache=features, threads=chosen.threads
        )

    built = settings.cache_dir / "learning-curve"
    base = base_of(chosen.base, lambda where: build(where, ()), built / "base")
    unseen = base_of(chosen.unseen, lambda where: build(where, held), built / "unseen")
    curves = main_curve(chosen, settings, base)
    if chosen.plot is not None:
        draw(chosen.plot, *curves)
    new_tags(chosen, settings, unseen, held)
    shipped_starter(chosen, settings)


def main_curve(chosen: argparse.Namespace, settings: Settings, base: Path) -> tuple[float, dict[str, list[Point]]]:
    """All tags of the set, both ways; returns what is drawn."""
    photos = annotated(chosen.data, SET, open_base(base, settings, name="curve-base"), settings, threads=chosen.threads)
    test, columns = photos.rows(chosen.split), np.arange(len(photos.material.tags))
    before = measured(photos, None, test, columns)
    curves = {}
    print(f"## {SET}, {len(columns)} tags, {len(test)} photos of the {chosen.split} split\n", flush=True)
    for way in WAYS:
        curves[way] = curve(photos, way, chosen.counts, test, seeds=chosen.seeds)
        print("\n".join(table(way, before, curves[way])), flush=True)
    print(outside(photos, test) + "\n", flush=True)
    return before[0], curves


def new_tags(chosen: argparse.Namespace, settings: Settings, unseen: Path, held: Sequence[str]) -> None:
    """Tags that no training saw, served from their text, in a project of their own and beside the others."""
    bundle = open_base(unseen, settings, name="curve-unseen")
    photos = annotated(chosen.data, SET, bundle, settings, new=held, threads=chosen.threads)
    columns = np.array([photos.material.tags.index(tag) for tag in held])
    test = photos.rows(chosen.split)
    print(f"## {len(held)} tags that no training saw: {json.dumps(list(held))}\n", flush=True)
    before = measured(photos, None, test, columns)
    for title, some, places in (
        ("beside the other tags", photos, columns),
        ("in a project of their own", photos.asking(columns), np.arange(len(columns))),
    ):
        for way in WAYS:
            points = curve(some, way, FEW_COUNTS, test, places, chosen.seeds)
            print("\n".join(table(f"{title}, {way}", before, points)), flush=True)


def shipped_starter(chosen: argparse.Namespace, settings: Settings) -> None:
    """Small sets, none of which the starter was trained on."""
    bundle = find_bundle(STARTER, settings.bundles_dir)
    print("## The shipped starter, 100 corrections\n")
    print(
        "| set | tags | photos measured | mAP before | " + " | ".join(WAYS) + " |\n| --- |" + " --- |" * 5, flush=True
    )
    for name in ("clothing_cc0", "ade_scenes"):
        photos = annotated(chosen.data, name, bundle, settings, threads=chosen.threads)
        print(small_set(photos, name, frequent(photos), chosen.seeds), flush=True)


if __name__ == "__main__":
    main()
