"""The guard: tags outside the project stay as they were."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend.gate.judge import LARGEST_MOVE, LEAST_AGREEMENT, OffTargetShift, measure_shift

THRESHOLDS = np.full(25, 0.5)


def log_odds(images: int = 200) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(-4.5, 2.0, (images, 25))


def scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


def moved(change: NDArray[np.float64] | float) -> OffTargetShift:
    base = log_odds()
    return measure_shift(scores(base), scores(base + change), THRESHOLDS)


def noise(size: float) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(0, size, log_odds().shape)


def test_little_noise_passes_and_much_does_not() -> None:
    assert moved(noise(0.05)).harmless
    much = moved(noise(1.0))
    assert not much.harmless
    assert much.relative_move > LARGEST_MOVE
    assert much.agreement < LEAST_AGREEMENT


def test_a_shift_of_all_scores_is_harm_though_no_order_changes() -> None:
    result = moved(0.5)
    assert result.agreement == 1
    assert not result.harmless


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


def test_without_a_decision_only_the_move_is_measured() -> None:
    base = scores(log_odds())
    result = measure_shift(base, base, np.full(25, 0.9999))
    assert math.isnan(result.agreement)
    assert result.harmless


def test_no_tags_outside() -> None:
    assert measure_shift(np.zeros((5, 0)), np.zeros((5, 0)), np.zeros(0)).harmless


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -0.1])
def test_scores_that_are_no_probabilities_are_harm(value: float) -> None:
    base = scores(log_odds())
    changed = base.copy()
    changed[3, 3] = value
    assert not measure_shift(base, changed, THRESHOLDS).harmless
