"""Scales and offsets: recovered where there is enough data, the bundle's where there is none."""

import numpy as np
import pytest

from ram_backend.models.calibration import sigmoid
from ram_backend.training import calibration as recalibration
from ram_backend.training.calibration import (
    fit_common_curve,
    fit_offsets,
    fit_pooled_prior,
    fit_tag_calibrations,
    pair_weights,
)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
Fitted = tuple[np.ndarray, np.ndarray]


def drawn(images: int, base_scale: list[float], residual_scale: list[float], offset: list[float]) -> Drawn:
    """Log-odds of a bundle, scores of a recipe, and labels that follow the given coefficients per tag."""
    random = np.random.default_rng(0)
    z = (2 * random.normal(size=(images, len(base_scale))) - 1).astype(np.float32)
    u = random.normal(size=z.shape)
    log_odds = np.array(base_scale) * z + np.array(residual_scale) * u + np.array(offset)
    labels = random.random(z.shape) < sigmoid(log_odds)
    return z, u, labels


def fitted(z: np.ndarray, u: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> Fitted:
    """Scale and offset per tag."""
    counts = np.ones(labels.shape) if counts is None else counts
    return fit_tag_calibrations(z, u, labels, counts, fit_pooled_prior(z, u, labels, counts)[0])


@pytest.mark.parametrize("pairs", [recalibration.PAIRS_AT_ONCE, 8000])
def test_coefficients_are_recovered_where_there_are_many_images(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalibration, "PAIRS_AT_ONCE", pairs)
    residual_scale, offset = [1, 1.5, 0.5, 2], [-1, -2, 0, -0.5]
    scale, shift = fitted(*drawn(4000, [1] * 4, residual_scale, offset))
    assert scale == pytest.approx(residual_scale, abs=0.15)
    assert shift == pytest.approx(offset, abs=0.15)


def test_a_rare_tag_follows_the_others() -> None:
    z, u, labels = drawn(2000, [1] * 6, [1.5] * 6, [-2] * 6)
    counts = np.ones(labels.shape)
    counts[6:, 5] = 0  # of the last tag only six images are known
    scale, shift = fitted(z, u, labels, counts)
    assert scale[5] == pytest.approx(1.5, abs=0.3)
    assert shift[5] == pytest.approx(-2, abs=0.9)


def test_a_recipe_that_says_nothing_gets_no_weight() -> None:
    z, _, labels = drawn(1500, [1] * 5, [0] * 5, [0] * 5)
    noise = np.random.default_rng(9).normal(size=z.shape)
    assert np.abs(fitted(z, noise, labels)[0]).max() < 0.15
    assert np.all(fitted(z, -10 * (labels - 0.5), labels)[0] >= 0), "never against what was learned"


def test_evidence_is_alike_for_all_known_pairs_of_a_tag() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=bool)
    weights = np.array([[1, 0.05, 0.8], [0.5, 0.05, 1], [0, 0.05, 0]], dtype=np.float32)
    expected = np.array([[0.75, 0.05, 0.9], [0.75, 0.05, 0.9], [0, 0.05, 0]])
    assert pair_weights(labels, weights) == pytest.approx(expected)


def test_offsets_are_smaller_than_they_seem_and_0_without_evidence() -> None:
    z, _, labels = drawn(200, [1] * 12, [0] * 12, [-2, 2, *[0] * 10])
    offset = fit_offsets(z, labels, np.ones(labels.shape))
    assert -2 < offset[0] < -1 < 1 < offset[1] < 2
    assert not fit_offsets(z, labels, np.zeros(labels.shape)).any()


def test_the_curve_of_a_bundle_without_calibration_is_found_within_bounds() -> None:
    z, _, labels = drawn(2000, [0.5] * 6, [0] * 6, [-1] * 6)
    counts = np.ones(labels.shape)
    assert fit_common_curve(z, labels, counts) == pytest.approx((0.5, -1), abs=0.1)
    assert fit_common_curve(-z, labels, counts)[0] == recalibration.SLOPES[0]
    assert fit_common_curve(z, np.zeros_like(labels), counts) == (1, 0)
