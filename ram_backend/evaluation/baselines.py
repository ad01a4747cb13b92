"""Baselines on a bundle's image tokens: untrained ImageNet prior, ConSE, linear probe (ridge regression)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.evaluation.figures import MIN_POSITIVES, ModelScores
from ram_backend.evaluation.labels import LabelSet
from ram_backend.evaluation.leaks import TrainingImages
from ram_backend.evaluation.scoring import ScoredImages, score_images
from ram_backend.gate.folds import group_near_duplicates
from ram_backend.metrics import mean_average_precision
from ram_backend.models.delta import features_of
from ram_backend.settings import Settings
from ram_backend.tagging.subset import tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.training.ridge import KernelEigen, standardised_targets
from ram_backend.vocabulary.prompts import unit_rows

LIKELIEST = 10
"""Classes that ConSE combines, as in its paper."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge penalties of the linear probe that are tried."""
_AT_ONCE = 64


def baselines(
    tagger: Tagger, scored: ScoredImages, training: LabelSet | None, folder: Path, settings: Settings
) -> list[ModelScores]:
    """Scores of N test images by each baseline, for the L tags of the tagger; what a baseline lacks is its note.

    Args:
        tagger: whose tokens these are.
        scored: the test images, with tokens.
        training: labelled images to fit the probe on; None: there are none.
        folder: that their files are in.
        settings: batch size, threads, limits.
    """
    models = [*_untrained(tagger, scored.tokens), _linear_probe(tagger, scored, training, folder, settings)]
    return [ModelScores(name, scores, baseline=True, note=note) for name, scores, note in models]


def _untrained(tagger: Tagger, tokens: NDArray[np.float16]) -> list[tuple[str, NDArray[np.float32] | None, str]]:
    """The starter's prior, and ConSE (Norouzi et al. 2014): the likeliest classes' mean embedding, by cosine."""
    from ram_backend.models.starter.network import COMPONENTS, StarterNetwork

    network, embeddings = tagger.network, tag_embeddings(tagger.bundle, tagger.subset)
    if not isinstance(network, StarterNetwork) or embeddings is None:
        note = "needs the ImageNet classifier of the starter: name it as the first bundle"
        return [("untrained prior", None, note), ("ConSE", None, note)]
    queries = network.select(tagger.subset.entries)
    prior, combined = [], []
    for start in range(0, len(tokens), _AT_ONCE):
        part = tokens[start : start + _AT_ONCE].astype(np.float32)
        prior.append(network.component_logits(part, queries)[COMPONENTS.index("prior")])
        classes = network.classifier.class_probabilities(part)[:, 0]
        least = np.partition(classes, -LIKELIEST, axis=1)[:, -LIKELIEST, None]
        combined.append(unit_rows(np.where(classes >= least, classes, 0) @ network.class_embeddings))
    return [("untrained prior", np.concatenate(prior), ""), ("ConSE", np.concatenate(combined) @ embeddings.T, "")]


def _linear_probe(
    tagger: Tagger, scored: ScoredImages, training: LabelSet | None, folder: Path, settings: Settings
) -> tuple[str, NDArray[np.float64] | None, str]:
    """Ridge regression on the global token, of the strength with the best leave-group-out mAP."""
    name = "linear probe"
    if training is None:
        return name, None, "needs --split, and images of split train"
    fitted = score_images([tagger], [folder / image.file for image in training.images], settings, keep_tokens=True)
    tested = TrainingImages(frozenset(zip(scored.sha256, scored.phash.tolist(), strict=True)))
    kept = np.setdiff1d(np.arange(len(fitted.rows)), list(tested.leaks(fitted.sha256, fitted.phash)))
    labels, known = (each[fitted.rows[kept]] for each in training.matrices(tagger.tags))
    if not (labels & known).any():
        return name, None, "needs images of split train with these tags"
    groups = group_near_duplicates(fitted.phash[kept], [fitted.sha256[row] for row in kept])
    eigen = KernelEigen.of(features_of(fitted.tokens[kept]))
    targets = standardised_targets(labels, known.astype(np.float32))
    ridges = [eigen.ridge(targets, groups, strength) for strength in STRENGTHS]
    quality = [
        mean_average_precision(each.out_of_group_scores, labels, known, min_positives=MIN_POSITIVES) for each in ridges
    ]
    best = ridges[int(np.argmax(np.nan_to_num(quality)))]
    return name, features_of(scored.tokens) @ best.weight.T + best.bias, ""
