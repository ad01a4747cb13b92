"""Scales and offsets: recovered where there is enough data, the bundle's where there is none."""

import numpy as np
import pytest

from ram_backend.metrics import calibration_error
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


def drawn(
    images: int, base_scale: list[float], residual_scale: list[float], offset: list[float], seed: int = 0
) -> Drawn:
    """Log-odds of a bundle, scores of a recipe, and labels that follow the given coefficients per tag."""
    random = np.random.default_rng(seed)
    z = (2 * random.normal(size=(images, len(base_scale))) - 1).astype(np.float32)
    u = random.normal(size=z.shape)
    log_odds = np.array(base_scale) * z + np.array(residual_scale) * u + np.array(offset)
    labels = random.random(z.shape) < sigmoid(log_odds)
    return z, u, labels


def fitted(z: np.ndarray, u: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None) -> Fitted:
    """Scale and offset per tag."""
    counts = np.ones(labels.shape) if counts is None else counts
    return fit_tag_calibrations(z, u, labels, counts, fit_pooled_prior(z, u, labels, counts)[0])


def test_coefficients_are_recovered_where_there_are_many_images() -> None:
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


def test_with_hardly_any_images_the_bundle_is_kept() -> None:
    z = np.array([[2.0, -2], [1, -3], [-2, 0]], dtype=np.float32)
    labels = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    shift = fitted(z, np.zeros(z.shape), labels)[1]
    assert shift == pytest.approx(np.zeros(2), abs=0.8)


def test_a_recipe_that_says_nothing_gets_no_weight() -> None:
    z, _, labels = drawn(1500, [1] * 5, [0] * 5, [0] * 5)
    noise = np.random.default_rng(9).normal(size=z.shape)
    assert np.abs(fitted(z, noise, labels)[0]).max() < 0.15
    assert np.all(fitted(z, -10 * (labels - 0.5), labels)[0] >= 0), "never against what was learned"


def test_what_nobody_said_anything_about_stays_the_bundles() -> None:
    z, u, labels = drawn(300, [0.5] * 3, [1] * 3, [-1] * 3)
    counts = np.ones(labels.shape)
    counts[:, 1] = 0
    scale, shift = fitted(z, u, labels, counts)
    assert (scale[1], shift[1]) == (0, 0)
    assert shift[0] < -0.5


@pytest.mark.parametrize("label", [False, True])
def test_equal_labels_teach_nothing(label: bool) -> None:
    z, u, labels = drawn(20, [1] * 2, [1] * 2, [0] * 2)
    counts = np.ones(labels.shape)
    assert fit_pooled_prior(z, u, np.full_like(labels, label), counts) == (None, 0)
    scale, shift = fit_tag_calibrations(z, u, np.full_like(labels, label), counts, None)
    assert not scale.any()
    assert not shift.any()


def test_a_tag_that_is_always_refused_falls() -> None:
    z, u, labels = drawn(200, [1] * 4, [0] * 4, [0] * 4)
    labels[:, 0] = False
    assert fitted(z, u, labels)[1][0] < -2


def test_many_tags_are_fitted_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    z, u, labels = drawn(200, [0.5] * 12, [1] * 12, [-1] * 12)
    whole_scale, whole_shift = fitted(z, u, labels)
    monkeypatch.setattr(recalibration, "PAIRS_AT_ONCE", 1000)
    scale, shift = fitted(z, u, labels)
    assert scale == pytest.approx(whole_scale, abs=0.2)
    assert shift == pytest.approx(whole_shift, abs=0.5)


def test_scores_are_honest_on_unseen_images_also_where_a_no_is_half_believed() -> None:
    z, u, labels = drawn(4000, [1] * 20, [1] * 20, [-2] * 20)
    weights = np.where(labels, 1, 0.5).astype(np.float32)[:2000]
    scale, shift = fitted(z[:2000], u[:2000], labels[:2000], pair_weights(labels[:2000], weights))
    log_odds = z[2000:] + scale * u[2000:] + shift
    assert calibration_error(sigmoid(log_odds), labels[2000:]) < 0.02
    assert calibration_error(sigmoid(z[2000:].astype(np.float64)), labels[2000:]) > 0.1, "the bundle's are not"


def test_evidence_is_alike_for_all_known_pairs_of_a_tag() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=bool)
    weights = np.array([[1, 0.05, 0.8], [0.5, 0.05, 1], [0, 0.05, 0]], dtype=np.float32)
    expected = np.array([[0.75, 0.05, 0.9], [0.75, 0.05, 0.9], [0, 0.05, 0]])
    assert pair_weights(labels, weights) == pytest.approx(expected)


def test_only_tags_with_clear_evidence_are_moved_and_less_than_they_seem() -> None:
    z, _, labels = drawn(200, [1] * 12, [0] * 12, [-2, 2, *[0] * 10])
    counts = np.ones(labels.shape)
    offset = fit_offsets(z, labels, counts)
    assert -2 < offset[0] < -1 < 1 < offset[1] < 2
    assert np.count_nonzero(offset[2:]) <= 3
    few = fit_offsets(z[:4], labels[:4], counts[:4])
    assert np.abs(few).max() < np.abs(offset).max()
    assert not fit_offsets(z, labels, 0 * counts).any()


def test_the_curve_of_a_bundle_without_calibration_is_found_within_bounds() -> None:
    z, _, labels = drawn(2000, [0.5] * 6, [0] * 6, [-1] * 6)
    counts = np.ones(labels.shape)
    assert fit_common_curve(z, labels, counts) == pytest.approx((0.5, -1), abs=0.1)
    assert fit_common_curve(-z, labels, counts)[0] == recalibration.SLOPES[0]
    assert fit_common_curve(z, np.zeros_like(labels), counts) == (1, 0)
