"""Measures the starter on labelled photos as `ram-backend eval` does: the table of its model card and docs/quality.md.

    python benchmarks/starter_quality.py --data DIR [--split test] [--unseen] [--write-card]

`--unseen` trains the starter five more times, each time without a fifth of the tags (and their synonyms and broader
tags), and measures how well exactly those are ranked: about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ram_backend.evaluation.evaluate import EvaluatedModel, evaluate
from ram_backend.evaluation.labels import LabelSet
from ram_backend.evaluation.leaks import bundle_training_images
from ram_backend.evaluation.readers import read_labels
from ram_backend.models.bundle import open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter.install import PACKAGED, install_starter
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from starter.card import MEASURED

SETS = ("coco_objects", "flickr8k_tags")
FOLDS, FOLD_SEED = 5, 2024
COLUMNS = {
    "edits per photo": "edits_per_image",
    "of an empty form": "edits_of_an_empty_form",
    "mAP": "mAP",
    "micro F1": "micro_f1",
    "macro F1": "macro_f1",
    "precision": "micro_precision",
    "precision@5": "precision_at_5",
    "calibration error": "ece",
}


def labelled(data: Path, name: str, split: str) -> LabelSet:
    return read_labels(data / name / "labels.jsonl").of_split(split)


def evaluated(bundle_dir: Path, data: Path, labels: LabelSet, tags: list[str], threads: int) -> dict[str, Any]:
    """What `ram-backend eval` says of a bundle and these tags."""
    bundle = open_bundle(bundle_dir)
    tagger = Tagger(bundle, load_network(bundle, threads=threads), resolve_subset(bundle, tags))
    candidate = EvaluatedModel(bundle.name, tagger, bundle_training_images(bundle))
    return evaluate(labels, data / labels.name / "images", tags, [candidate], load_settings(threads=threads))


def measure_unseen(data: Path, split: str, cache: Path, threads: int) -> dict[str, float]:
    """MAP of tags that a build didn't see: mean over five folds, by set."""
    from starter.build import build_starter

    sets = [labelled(data, name, split) for name in SETS]
    tags = sorted({tag for labels in sets for tag in labels.tags})
    fold_of = dict(zip(tags, np.random.default_rng(FOLD_SEED).permutation(len(tags)) % FOLDS, strict=True))
    results: dict[str, list[float]] = {name: [] for name in SETS}
    for fold in range(FOLDS):
        held = [tag for tag in tags if fold_of[tag] == fold]
        with tempfile.TemporaryDirectory() as scratch:
            source = build_starter(
                data, Path(scratch) / "source", leave_out_tags=held, calibrated=False, cache=cache, threads=threads
            )
            bundle = install_starter(Path(scratch), source=source, name="unseen")
            for labels in sets:
                chosen = [tag for tag in labels.tags if tag in held]
                results[labels.name].append(evaluated(bundle, data, labels, chosen, threads)["mAP"] or np.nan)
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
            labels = labelled(chosen.data, name, chosen.split)
            found = evaluated(bundle, chosen.data, labels, list(labels.tags), chosen.threads)
            lines = lines or [f"| set | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
            lines.append(f"| {name} | " + " | ".join(f"{found[key]:.3f}" for key in COLUMNS.values()) + " |")
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
