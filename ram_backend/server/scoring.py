"""From the scores of texts to scored choices: pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ram_backend.labelstudio.predictions import ScoredChoice
from ram_backend.server.resolved_config import Asked

FloatArray = NDArray[np.float32]


def scored_choices(asked: Asked, scores: FloatArray, thresholds: FloatArray) -> list[list[ScoredChoice]]:
    """Per image the choices that matter for its prediction, in the order of `asked`.

    A choice has the score of its best text. Choices that can't change anything are left out: of thousands that are off,
    only those count that are nearest to their thresholds (see `control_confidence`), and the best.

    Args:
        asked: L texts, C choices.
        scores: (N, L) calibrated probabilities.
        thresholds: (L,) of the bundle, where admins set none.
    """
    if not asked.choices:
        return [[] for _ in scores]
    best, limits = _by_choice(asked, scores, thresholds)
    return [_that_matter(asked, row, limit) for row, limit in zip(best, limits, strict=True)]


def _by_choice(asked: Asked, scores: FloatArray, thresholds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scores and thresholds (N, C): of each choice those of its best text."""
    most = max(len(columns) for columns in asked.columns)
    columns = np.array([(*own, *(own[-1:] * (most - len(own)))) for own in asked.columns])  # (C, most)
    of_texts = scores[:, columns]  # (N, C, most)
    best = of_texts.argmax(axis=2)
    texts = columns[np.arange(len(columns)), best]  # (N, C)
    limits = thresholds[texts].astype(np.float32)
    for place, own in enumerate(asked.thresholds):
        if own is not None:
            limits[:, place] = own
    return np.take_along_axis(of_texts, best[:, :, None], axis=2)[:, :, 0], limits


def _that_matter(asked: Asked, scores: FloatArray, limits: FloatArray) -> list[ScoredChoice]:
    on = np.flatnonzero(scores > limits)
    off = np.flatnonzero((scores <= limits) & (limits < 1))
    share = (limits[off] - scores[off]) / np.maximum(limits[off], np.float32(1e-9))
    near = off[np.argsort(share, kind="stable")[: max(1, len(on)) + 1]]
    chosen = np.union1d(np.union1d(on, near), [int(scores.argmax())])
    return [ScoredChoice(asked.choices[int(i)], float(scores[i]), float(limits[i])) for i in chosen]
