"""Measures the starter on labelled photos: every number that its model card and the README name.

    python benchmarks/starter_quality.py --data DIR [--split test] [--unseen] [--write-card]

`--unseen` trains the starter five more times, each time without a fifth of the tags (and their synonyms and broader
tags), and measures how well exactly those are ranked: about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.images.decode import decode
from ram_backend.metrics import calibration_error, edits, f1, mean_average_precision, precision_at_k
from ram_backend.models.bundle import open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter.install import PACKAGED, install_starter
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from starter.card import MEASURED
from starter.data import label_matrix, read_set, set_tags

SETS = ("coco_objects", "flickr8k_tags")
FOLDS, FOLD_SEED = 5, 2024


def measure(bundle_dir: Path, data: Path, name: str, split: str, threads: int) -> dict[str, float]:
    """All numbers of one set."""
    logits, scores, thresholds, labels, known = scored(bundle_dir, data, name, split, set_tags(data, name), threads)
    on = (scores > thresholds) & known
    return {
        "edits per photo": float(edits(scores, labels, thresholds, known).mean()),
        "of an empty form": float((labels & known).sum(axis=1).mean()),
        "mAP": mean_average_precision(logits, labels, known),
        "micro F1": f1(scores, labels, thresholds, known),
        "macro F1": f1(scores, labels, thresholds, known, average="macro"),
        "precision": float((on & labels).sum() / max(1, on.sum())),
        "precision@5": precision_at_k(scores, labels, known, 5),
        "calibration error": calibration_error(scores, labels, known),
    }


def scored(
    bundle_dir: Path, data: Path, name: str, split: str, tags: Sequence[str], threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Logits, scores, thresholds, labels and known of a set's photos, through the product's own path."""
    bundle = open_bundle(bundle_dir)
    tagger = Tagger(bundle, load_network(bundle, threads=threads), resolve_subset(bundle, tags))
    photos = read_set(data, name, split)
    found = [tagger.tag([_decode(photo.path) for photo in photos[at : at + 16]]) for at in range(0, len(photos), 16)]
    labels, known = label_matrix(photos, tags)
    return (
        np.concatenate([part.logits for part in found]),
        np.concatenate([part.scores for part in found]),
        tagger.thresholds,
        labels,
        known,
    )


def _decode(path: Path) -> Image.Image:
    return decode(path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)[0]


def measure_unseen(data: Path, split: str, cache: Path, threads: int) -> dict[str, float]:
    """MAP of tags that a build didn't see: mean over five folds, by set."""
    from starter.build import build_starter

    tags = sorted({tag for name in SETS for tag in set_tags(data, name)})
    fold_of = dict(zip(tags, np.random.default_rng(FOLD_SEED).permutation(len(tags)) % FOLDS, strict=True))
    results: dict[str, list[float]] = {name: [] for name in SETS}
    for fold in range(FOLDS):
        held = [tag for tag in tags if fold_of[tag] == fold]
        with tempfile.TemporaryDirectory() as scratch:
            source = build_starter(
                data, Path(scratch) / "source", leave_out_tags=held, calibrated=False, cache=cache, threads=threads
            )
            bundle = install_starter(Path(scratch), source=source, name="unseen")
            for name in SETS:
                chosen = [tag for tag in set_tags(data, name) if tag in held]
                logits, _, _, labels, known = scored(bundle, data, name, split, chosen, threads)
                results[name].append(mean_average_precision(logits, labels, known))
        print(f"fold {fold + 1}: " + ", ".join(f"{name} {results[name][-1]:.3f}" for name in SETS), flush=True)
    return {name: float(np.nanmean(values)) for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--source", type=Path, default=PACKAGED, help="folder that `python -m starter` wrote")
    parser.add_argument("--unseen", action="store_true", help="train without each fifth of the tags, too")
    parser.add_argument("--write-card", action="store_true", help="put the numbers into the source's model card")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        bundle = install_starter(Path(scratch), source=chosen.source, name="measured")
        for name in SETS:
            numbers = measure(bundle, chosen.data, name, chosen.split, chosen.threads)
            lines = lines or [f"| set | {' | '.join(numbers)} |", "| --- |" + " --- |" * len(numbers)]
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in numbers.values()) + " |")
    print("\n".join(lines), flush=True)
    if chosen.unseen:
        unseen = measure_unseen(
            chosen.data, chosen.split, load_settings().cache_dir / "starter-features", chosen.threads
        )
        lines += ["", "Tags that training didn't see (5 folds over tags), mean mAP: "]
        lines[-1] += ", ".join(f"{name} {value:.3f}" for name, value in unseen.items()) + "."
        print(lines[-1])
    if chosen.write_card:
        card = chosen.source / "MODEL_CARD.md"
        before, after = card.read_text(encoding="utf-8").split(MEASURED, 1)
        section = f"{MEASURED}\n\n{chosen.split} splits, tags of each set, shipped thresholds:\n\n" + "\n".join(lines)
        card.write_text(before + section + "\n\n## " + after.split("\n## ", 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
