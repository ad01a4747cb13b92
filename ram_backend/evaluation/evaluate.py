"""Evaluation of models on a labelled set: scores, leaks, figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ram_backend.errors import InputError
from ram_backend.evaluation.baselines import baselines
from ram_backend.evaluation.figures import ModelScores, describe_models
from ram_backend.evaluation.labels import LabelSet
from ram_backend.evaluation.leaks import TrainingImages
from ram_backend.evaluation.scoring import ScoredImages, score_images
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import Tagger


@dataclass(frozen=True)
class EvaluatedModel:
    """A bundle or version to evaluate.

    Attributes:
        name: for tables.
        tagger: of the set's tags; None: it can't score them, see `note`.
        training: what it has learned from; None: it doesn't say.
        note: a sentence for people.
    """

    name: str
    tagger: Tagger | None
    training: TrainingImages | None = None
    note: str = ""


def evaluate(
    labels: LabelSet,
    folder: Path,
    tags: Sequence[str],
    candidates: Sequence[EvaluatedModel],
    settings: Settings,
    *,
    keep_leaks: bool = False,
    with_baselines: bool = False,
    training: LabelSet | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Evaluates candidates on the same images, which none has learned from.

    Args:
        labels: of the images to test on.
        folder: that the files of `labels` are in.
        tags: L tags, those of the candidates' taggers.
        candidates: at least one.
        settings: batch size, threads, limits.
        keep_leaks: leaks are reported, and counted nevertheless.
        with_baselines: further models, on the tokens of the first candidate.
        training: labelled images for the baselines that learn; None: there are
            none.
        progress: called with the number of images of each batch.

    Returns:
        A JSON object: the figures of the first model that can score the tags at
            its top level, "images" and "tags" (how many), "set", "missing" and
            "leaks" (lists), and what `describe_models` gives.

    Raises:
        InputError: no image could be read, or all are leaks.
    """
    paths = [folder / image.file for image in labels.images]
    groups: dict[str, list[EvaluatedModel]] = {}
    for each in candidates:
        if each.tagger is not None:
            groups.setdefault(f"{each.tagger.bundle.path} {each.tagger.network.encoder_id}", []).append(each)
    scored: ScoredImages | None = None
    found = {each.name: ModelScores(each.name, None, note=each.note) for each in candidates}
    for group in groups.values():
        taggers = [each.tagger for each in group if each.tagger is not None]
        keep = with_baselines and scored is None
        result = score_images(taggers, paths, settings, keep_tokens=keep, progress=progress)
        if not len(result.rows):
            raise InputError(f"{labels.name}: no image could be read; the first: {result.errors[0]}")
        if scored is None:
            scored, reference = result, taggers[0]
        for each, tagger, scores in zip(group, taggers, result.scores, strict=True):
            unseen = np.isin(tagger.tags, tagger.subset.new_tags)
            found[each.name] = ModelScores(each.name, scores, tagger.thresholds, unseen, note=each.note)
    if scored is None:
        raise InputError(f"{labels.name}: no model can score these tags: {candidates[0].note}")
    models = list(found.values())
    if with_baselines:
        models += baselines(reference, scored, labels, training, folder, settings)
    leaks = _leaks(candidates, scored)
    kept = np.array([keep_leaks or row not in leaks for row in range(len(scored.rows))])
    if not kept.any():
        raise InputError(f"{labels.name}: the models have learned from all of its images: give others, or a --split.")
    right, known = (each[scored.rows[kept]] for each in labels.matrices(tags))
    kept_models = [replace(each, scores=None if each.scores is None else each.scores[kept]) for each in models]
    described = describe_models(kept_models, tags, right, known)
    first = next(each for each in described["models"] if "mAP" in each)
    files = [labels.images[row].file for row in scored.rows]
    return {
        "set": labels.name,
        "images": int(kept.sum()),
        "tags": len(tags),
        **{name: value for name, value in first.items() if isinstance(value, float) or value is None},
        "missing": [str(error) for error in scored.errors],
        "leaks": [{"file": files[row], "kind": kind, "models": names} for row, (kind, names) in leaks.items()],
        "leaks_excluded": not keep_leaks,
        "training_unknown": [each.name for each in candidates if each.training is None],
        **described,
    }


def _leaks(candidates: Sequence[EvaluatedModel], scored: ScoredImages) -> dict[int, tuple[str, list[str]]]:
    """Rows of leaked images: the kind, and the models that learned them."""
    found: dict[int, tuple[str, list[str]]] = {}
    for each in candidates:
        rows = {} if each.training is None else each.training.leaks(scored.sha256, scored.phash)
        for row, kind in rows.items():
            found.setdefault(row, (kind, []))[1].append(each.name)
    return dict(sorted(found.items()))
