"""What corrections are worth: quality on photos that nobody corrected, by the number of photos that somebody did.

    python benchmarks/learning_curve.py --data DIR [--base DIR] [--unseen DIR] [--plot out.svg] [--split val]

A simulated annotator (see `annotated_photos.py`) corrects photos of the train split of `flickr8k_tags` with a starter
that was built without that set; what was learned is measured on the val split. Without `--base` and `--unseen` the two
starters are built first, which takes about a quarter of an hour on two cores each.

Two curves: "as served" is the product's way: what comes out is served only if the gate accepts it (else the bundle's
own figures count, and the column "served" says of how many seeds it was accepted). Each point is one round from the
bundle; a project that trains often keeps what an earlier round brought where the gate refuses a later one. "All fitted"
serves what the gate refuses, too.

Intervals are 95 % ones. Those behind a mean (t over seeds) cover the draw of the corrected photos from a fixed pool and
nothing else: n close to the size of the pool leaves nothing to draw, and they shrink to nothing. The column "± photos"
is the gain's interval for the photos that are measured (bootstrap over them, of the mean over seeds). Both leave out
what other sets of photos, tags or annotators would give.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from annotated_photos import SET, AnnotatedPhotos, annotated, learning_round, open_base, starter_without_set
from learning_points import AS_SERVED, T_95, WAYS, Point, curves, half_width, interval
from numpy.typing import NDArray

from ram_backend.models.bundle import STARTER
from ram_backend.models.registry import find_bundle
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.subset import whole_vocabulary
from ram_backend.tagging.tagger import Tagger
from starter.data import set_tags

COUNTS = (50, 100, 200, 300, 500, 1000, 1900)
FEW_COUNTS = (100, 300, 1000)
"""Of tags that no training saw."""
PARTS = ("set", "new-tags", "shipped")
SEEDS = 10
UNSEEN_TAGS, UNSEEN_SEED = 32, 2024
FREQUENT_TRAIN, FREQUENT_TEST = 5, 3
PALETTE = ("#1f6f8b", "#c8553d", "#7a7a7a")


def table(way: str, points: Sequence[Point]) -> list[str]:
    """A curve as markdown."""
    titles = (
        "corrected", "served", "edits per photo", "mAP", "gain", "± photos", "calibration error", "CPU seconds",
    )  # fmt: skip
    before = points[0].before
    lines = [f"**{way}**", "", f"| {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) - 1)]
    lines.append(f"| 0 | | {before.edits:.3f} | {before.quality:.3f} | | | {before.calibration:.3f} | |")
    for point in points:
        cells = (
            f"{point.corrected}",
            point.served if AS_SERVED in way else "not asked",
            interval([one.figures.edits for one in point.seeds]),
            interval(point.quality),
            point.gain,
            point.gain_by_photos,
            interval([one.figures.calibration for one in point.seeds]),
            f"{np.mean([one.seconds for one in point.seeds]):.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def heading(title: str, photos: AnnotatedPhotos, seeds: int) -> str:
    """A title, and what the intervals below it cover."""
    pool = len(photos.rows("train"))
    return (
        f"## {title}\n\n95 % intervals: ± behind a mean covers only which photos are corrected, over {seeds} draws from"
        f" the same {pool:,}; ± photos covers only which ones are measured, by bootstrap. Both leave out what other"
        " sets of photos, tags or annotators would give.\n"
    )


def outside(photos: AnnotatedPhotos, test: NDArray[np.int64]) -> str:
    """How far tags outside the project move where what 300 corrections taught is served."""
    candidate = learning_round(photos.without_tokens(photos.rows("train")[:300]), None, 0).candidate
    assert candidate is not None
    everything = whole_vocabulary(photos.bundle)
    before, after = (
        Tagger(photos.bundle, photos.network, everything, delta=delta) for delta in (None, candidate.delta)
    )
    assert photos.training_set.tokens is not None
    tokens = photos.training_set.tokens[test[:100]].astype(np.float32)
    other = np.array([name not in set(candidate.delta.tags) for name in everything.names])
    moved = np.abs(before.score(tokens).scores - after.score(tokens).scores)
    return (
        f"{other.sum()} tags outside the project on 100 photos: scores move by at most {moved[:, other].max():.3g}"
        f" (the project's {(~other).sum()}: up to {moved[:, ~other].max():.2f})."
    )


def small_set(photos: AnnotatedPhotos, name: str, columns: NDArray[np.int64], seeds: int, processes: int) -> str:
    """Gain of 100 corrections with the shipped starter."""
    test = photos.rows("val", "test")
    points = [points[0] for points in curves(photos, (100,), test, columns, seeds, processes).values()]
    cells = [f"{interval(point.quality)} | {point.gain} | {point.gain_by_photos}" for point in points]
    pool, before, served = len(photos.rows("train")), points[0].before.quality, points[-1].served
    return f"| {name} | {len(columns)} | {pool} | {len(test)} | {before:.3f} | {' | '.join(cells)} | {served} |"


def frequent(photos: AnnotatedPhotos) -> NDArray[np.int64]:
    """Columns of the tags with enough photos to learn from and to measure on."""
    seen = photos.labels & photos.known
    train, test = (seen[photos.rows(*names)].sum(axis=0) for names in (("train",), ("val", "test")))
    return np.flatnonzero((train >= FREQUENT_TRAIN) & (test >= FREQUENT_TEST))


def draw(out: Path, curves: dict[str, list[Point]]) -> None:
    """Edits, mean average precision and calibration error by corrected photos, with the seeds' intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "curve"}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), dpi=100)
    titles = {"edits": "edits per photo", "quality": "mAP", "calibration": "calibration error"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        axis.axhline(
            getattr(next(iter(curves.values()))[0].before, name), color=PALETTE[2], linewidth=1, linestyle="--"
        )
        for colour, (way, points) in zip(PALETTE, curves.items(), strict=False):
            counts = [point.corrected for point in points]
            values = [[getattr(one.figures, name) for one in point.seeds] for point in points]
            means, half = np.array([np.mean(some) for some in values]), np.array([half_width(some) for some in values])
            axis.plot(counts, means, color=colour, marker="o", markersize=3.5, label=way)
            axis.fill_between(counts, means - half, means + half, color=colour, alpha=0.18, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set_xlabel("photos corrected")
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, help="starter built without the set, or a bundle; built if not given")
    parser.add_argument("--unseen", type=Path, help="the same, built without 32 of the tags; built if not given")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="of what is measured on")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file to write")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=sorted(T_95), help="orders of the photos")
    parser.add_argument("--threads", type=int, default=2, help="for building and scoring")
    parser.add_argument("--processes", type=int, default=2, help="for the seeds")
    chosen = parser.parse_args()
    settings = load_settings()
    tags = set_tags(chosen.data, SET)
    held = [tags[row] for row in sorted(np.random.default_rng(UNSEEN_SEED).permutation(len(tags))[:UNSEEN_TAGS])]

    if "set" in chosen.only:
        base = chosen.base or starter_without_set(chosen.data, settings, "base", threads=chosen.threads)
        found = main_curve(chosen, settings, base)
        if chosen.plot is not None:
            draw(chosen.plot, found)
    if "new-tags" in chosen.only:
        unseen = chosen.unseen or starter_without_set(
            chosen.data, settings, "unseen", without_tags=held, threads=chosen.threads
        )
        new_tags(chosen, settings, unseen, held)
    if "shipped" in chosen.only:
        shipped_starter(chosen, settings)


def main_curve(chosen: argparse.Namespace, settings: Settings, base: Path) -> dict[str, list[Point]]:
    """All tags of the set, both ways; returns what is drawn."""
    photos = annotated(chosen.data, SET, open_base(base, settings), settings, threads=chosen.threads)
    test, columns = photos.rows(chosen.split), np.arange(len(photos.training_set.tags))
    title = f"{SET}, {len(columns)} tags, {len(test)} photos of the {chosen.split} split"
    print(heading(title, photos, chosen.seeds), flush=True)
    found = curves(photos, chosen.counts, test, columns, chosen.seeds, chosen.processes)
    for way, points in found.items():
        print("\n".join(table(way, points)), flush=True)
    print(outside(photos, test) + "\n", flush=True)
    return found


def new_tags(chosen: argparse.Namespace, settings: Settings, unseen: Path, held: Sequence[str]) -> None:
    """Tags that no training saw, served from their text, in a project of their own and beside the others."""
    photos = annotated(chosen.data, SET, open_base(unseen, settings), settings, new=held, threads=chosen.threads)
    columns = np.array([photos.training_set.tags.index(tag) for tag in held])
    test = photos.rows(chosen.split)
    title = f"{len(held)} tags that no training saw: {json.dumps(list(held))}"
    print(heading(title, photos, chosen.seeds), flush=True)
    for title, some, places in (
        ("beside the other tags", photos, columns),
        ("in a project of their own", photos.asking(columns), np.arange(len(columns))),
    ):
        for way, points in curves(some, FEW_COUNTS, test, places, chosen.seeds, chosen.processes).items():
            print("\n".join(table(f"{title}, {way}", points)), flush=True)


def shipped_starter(chosen: argparse.Namespace, settings: Settings) -> None:
    """Small sets, none of which the starter was trained on."""
    bundle = find_bundle(STARTER, settings.bundles_dir)
    titles = ["set", "tags", "pool", "photos measured", "mAP before"]
    titles += [title for way in WAYS for title in (way, "gain", "± photos")]
    titles.append("served")
    print(
        f"## The shipped starter, 100 corrections\n\nIntervals as above, {chosen.seeds} draws from each set's pool.\n\n"
        f"| {' | '.join(titles)} |\n| --- |" + " --- |" * (len(titles) - 1),
        flush=True,
    )
    for name in ("clothing_cc0", "ade_scenes"):
        photos = annotated(chosen.data, name, bundle, settings, threads=chosen.threads)
        print(small_set(photos, name, frequent(photos), chosen.seeds, chosen.processes), flush=True)


if __name__ == "__main__":
    main()
