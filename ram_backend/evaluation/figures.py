"""Figures of models on a labelled set, per model and tag, compared. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ram_backend import metrics

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

MIN_POSITIVES = 3
"""Known positives from which on a tag's AP counts in mAP."""
MOST_RESAMPLED = 20_000_000
"""Resamples x images, at most."""


@dataclass(frozen=True)
class ModelScores:
    """What a model says about N images and L tags.

    Attributes:
        name: for tables.
        scores: (N, L); None: the model can't score these tags, see `note`.
        thresholds: (L,) that it is served with; None: the scores only rank, as
            those of most baselines.
        unseen: (L,) bool, tags that were embedded from their text.
        baseline: it is no bundle and no version.
        note: a sentence for people.
    """

    name: str
    scores: FloatArray | None
    thresholds: FloatArray | None = None
    unseen: BoolArray | None = None
    baseline: bool = False
    note: str = ""


def figures(scores: FloatArray, labels: BoolArray, known: BoolArray, thresholds: FloatArray | None) -> dict[str, float]:
    """All figures of (N, L) scores; some need thresholds.

    Args:
        scores: (N, L).
        labels: (N, L).
        known: (N, L).
        thresholds: (L,) or None.
    """
    official = metrics.ram_figures(scores, labels, 1.0 if thresholds is None else thresholds, known)
    found = {
        "mAP": metrics.mean_average_precision(scores, labels, known, MIN_POSITIVES),
        "micro_mAP": metrics.micro_average_precision(scores, labels, known),
        "precision_at_5": metrics.precision_at_k(scores, labels, known, 5),
        "ram_mAP": official["mAP"],
    }
    if thresholds is None:
        return found
    averages: tuple[Literal["micro", "macro"], ...] = ("micro", "macro")
    for average in averages:
        values = metrics.precision_recall_f1(scores, labels, thresholds, known, average)
        found |= zip((f"{average}_precision", f"{average}_recall", f"{average}_f1"), values, strict=True)
    return found | {
        "CP": official["CP"],
        "CR": official["CR"],
        "ece": metrics.calibration_error(scores, labels, known),
        "edits_per_image": float(metrics.edits(scores, labels, thresholds, known).mean()),
        "edits_of_an_empty_form": float((labels & known).sum(axis=1).mean()),
    }


def describe_models(
    models: Sequence[ModelScores], tags: Sequence[str], labels: BoolArray, known: BoolArray
) -> dict[str, Any]:
    """Everything about models on N images and L tags, JSON with null for nan.

    Returns:
        "models": per model its figures, their 95 % "intervals", figures of
            "seen" and "unseen" tags, "reliability" and "per_tag".
        "comparisons": of the first model with each other one: difference,
            interval and p-value by a paired bootstrap over images.
    """
    weights = metrics.bootstrap_weights(len(labels), min(metrics.RESAMPLES, MOST_RESAMPLED // len(labels)))
    described, comparisons = list[dict[str, Any]](), list[dict[str, Any]]()
    first: tuple[dict[str, Any], dict[str, NDArray[np.float64]]] | None = None
    for model in models:
        facts: dict[str, Any] = {"name": model.name, "baseline": model.baseline, "note": model.note}
        described.append(facts)
        if model.scores is None:
            continue
        drawn = metrics.bootstrap(model.scores, labels, known, model.thresholds, weights)
        facts |= figures(model.scores, labels, known, model.thresholds)
        facts["intervals"] = {name: metrics.interval(each) for name, each in drawn.items()}
        facts |= _apart(model, labels, known) | _points(model, tags, labels, known)
        first = first or (facts, drawn)
        for figure in () if first[0] is facts else sorted(drawn.keys() & first[1].keys()):
            before, after = first[1][figure], drawn[figure]
            pair = {"model": model.name, "with": first[0]["name"], "figure": figure}
            pair |= {"difference": facts[figure] - first[0][figure], "interval": metrics.interval(after - before)}
            comparisons.append({**pair, "p_value": metrics.paired_p_value(before, after)})
    found: dict[str, Any] = plain({"models": described, "comparisons": comparisons})
    return found


def plain(value: Any) -> Any:
    """The same with None where a number is nan, and lists for tuples."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _apart(model: ModelScores, labels: BoolArray, known: BoolArray) -> dict[str, Any]:
    """Figures of "seen" and of "unseen" tags, as far as there are such."""
    if model.scores is None or model.unseen is None or model.thresholds is None:
        return {}
    found = {}
    for name, columns in (("seen", ~model.unseen), ("unseen", model.unseen)):
        if columns.any():
            arrays = (model.scores[:, columns], labels[:, columns], known[:, columns], model.thresholds[columns])
            found[name] = {"tags": int(columns.sum()), **figures(*arrays)}
    return found


def _points(model: ModelScores, tags: Sequence[str], labels: BoolArray, known: BoolArray) -> dict[str, Any]:
    """What plots and tables of tags show."""
    assert model.scores is not None
    points = metrics.reliability(model.scores, labels, known) if model.thresholds is not None else ()
    bins = zip(*(each.tolist() for each in points), strict=True)
    found = metrics.average_precision_per_tag(model.scores, labels, known).tolist()
    positives = (labels & known).sum(axis=0).tolist()
    rows = zip(tags, positives, (~labels & known).sum(axis=0).tolist(), found, strict=True)
    return {
        "reliability": [{"score": score, "right": right, "pairs": int(pairs)} for score, right, pairs in bins if pairs],
        "per_tag": [{"tag": tag, "positives": right, "negatives": wrong, "AP": ap} for tag, right, wrong, ap in rows],
    }
