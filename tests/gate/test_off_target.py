"""The guard: tags outside the project stay as they were."""

import math
from typing import Any

import numpy as np
import pytest

from ram_backend.gate.judge import LARGEST_MOVE, measure_shift
from ram_backend.models.calibration import sigmoid

BASE = np.random.default_rng(0).normal(-4.5, 2.0, (200, 25))
NOISE = np.random.default_rng(1).normal(size=BASE.shape)
SCORES, THRESHOLDS = sigmoid(BASE), np.full(25, 0.5)


@pytest.mark.parametrize(
    ("change", "harmless"),
    [(0.05 * NOISE, True), (NOISE, False), (0.5, False)],
    ids=["little noise", "much noise", "all scores, in the same order"],
)
def test_what_moves_log_odds(change: Any, harmless: bool) -> None:
    assert measure_shift(SCORES, sigmoid(BASE + change), THRESHOLDS).harmless == harmless


def test_order_among_the_decided_is_harm_though_scores_move_little() -> None:
    """Scores of the few images that the bundle gives a tag fall just below those of others."""
    base = np.full((100, 25), 0.02)
    base[0] = 0.06
    changed = base.copy()
    changed[0] = 0.019
    result = measure_shift(base, changed, np.full(25, 0.05))
    assert result.relative_move < LARGEST_MOVE
    assert result.agreement == pytest.approx(0.01)
    assert not result.harmless


def test_without_a_decision_or_without_tags_outside_there_is_no_harm() -> None:
    result = measure_shift(SCORES, SCORES, np.full(25, 0.9999))
    assert math.isnan(result.agreement)
    assert result.harmless
    assert measure_shift(np.zeros((5, 0)), np.zeros((5, 0)), np.zeros(0)).harmless


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -0.1])
def test_scores_that_are_no_probabilities_are_harm(value: float) -> None:
    changed = SCORES.copy()
    changed[3, 3] = value
    assert not measure_shift(SCORES, changed, THRESHOLDS).harmless
