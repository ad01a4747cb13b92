"""Calibration on data whose true probabilities are known."""

import numpy as np
import pytest

from ram_backend.errors import InputError
from starter.calibration import SMALLEST_SLOPE, Curve, fit_curve, fit_logistic, fit_tag_curve


def drawn(slope: float, offset: float, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(count) * 2
    return logits, rng.random(count) < 1 / (1 + np.exp(-(slope * logits + offset)))


def test_a_curve_is_recovered_from_what_it_drew() -> None:
    curve = fit_curve(*drawn(1.7, -2.0, 20_000))
    assert curve.slope == pytest.approx(1.7, rel=0.1)
    assert curve.offset == pytest.approx(-2.0, rel=0.1)


def test_few_photos_leave_a_tag_near_the_shared_curve_and_many_pull_it_away() -> None:
    shared = Curve(1.0, -1.0)
    few = fit_tag_curve(*drawn(2.0, 1.0, 6), shared)
    many = fit_tag_curve(*drawn(2.0, 1.0, 5000), shared)
    assert abs(few.offset - shared.offset) < abs(many.offset - shared.offset)
    assert many.slope == pytest.approx(2.0, rel=0.15)
    assert many.offset == pytest.approx(1.0, abs=0.2)
    assert fit_tag_curve(np.empty(0), np.empty(0, dtype=bool), shared) == shared


def test_a_slope_never_turns_over() -> None:
    logits, labels = drawn(-3.0, 0.0, 3000)
    assert fit_tag_curve(logits, labels, Curve(1.0, 0.0)).slope >= SMALLEST_SLOPE * 0.999
    assert fit_curve(logits, labels).slope > 0


def test_logistic_regression_finds_weights_and_refuses_one_kind_of_label() -> None:
    rng = np.random.default_rng(1)
    inputs = np.stack([rng.standard_normal(8000), rng.standard_normal(8000), np.ones(8000)])
    truth = np.array([1.5, -0.5, -1.0])
    labels = rng.random(8000) < 1 / (1 + np.exp(-truth @ inputs))
    np.testing.assert_allclose(fit_logistic(inputs, labels), truth, atol=0.15)
    with pytest.raises(InputError, match="right on some photos"):
        fit_logistic(inputs, np.zeros(8000, dtype=bool))
