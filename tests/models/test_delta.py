"""What a version changes about a bundle: a linear delta per tag, taken apart and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ram_backend.errors import VersionDamaged
from ram_backend.models.delta import TENSORS, Delta, features_of


def delta(**changes: Any) -> Delta:
    parts: dict[str, Any] = {
        "tags": ("cat", "dog"),
        "base_scale": np.array([0.5, 2], dtype=np.float32),
        "weight": np.array([[1, 0, -1], [0, 3, 0]], dtype=np.float32),
        "bias": np.array([0.25, -1], dtype=np.float32),
        "thresholds": np.array([0.3, 0.6], dtype=np.float32),
    }
    return Delta(**(parts | changes))


def old_tensors(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """As versions were written when a delta had a calibration of its own."""
    tensors = {
        "trust": np.array([0.5, 2]),
        "weight": np.array([[1, 0, -1], [0, 3, 0]]),
        "bias": np.array([0.25, -1]),
        "slope": np.array([2, 0.5]),
        "offset": np.array([0, -0.5]),
        "thresholds": np.array([0.3, 0.6]),
    }
    return {name: value.astype(np.float32) for name, value in tensors.items()} | changes


def test_log_odds_are_scaled_ones_plus_a_linear_model_of_the_image() -> None:
    z = np.array([[4, -1], [0, 0]], dtype=np.float32)
    features = np.array([[1, 2, 3], [0, 1, 0]], dtype=np.float32)
    by_hand = np.array([[0.5 * 4 + 1 - 3 + 0.25, 2 * -1 + 6 - 1], [0.25, 3 - 1]])
    assert delta().log_odds(z, features) == pytest.approx(by_hand)


def test_a_version_of_old_keeps_its_scores() -> None:
    random = np.random.default_rng(0)
    z, features = random.normal(size=(20, 2)).astype(np.float32), random.normal(size=(20, 3)).astype(np.float32)
    old = old_tensors()
    logits = z * old["trust"] + features @ old["weight"].T + old["bias"]
    again = Delta.from_tensors(("cat", "dog"), old)
    assert again.log_odds(z, features) == pytest.approx(logits * old["slope"] + old["offset"], abs=1e-5)
    assert np.array_equal(again.thresholds, old["thresholds"])
    assert set(again.to_tensors()) == set(TENSORS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slope": np.array([1, -1])}, "base_scale that is not above 0"),
        ({"slope": np.array([np.inf, 1])}, "base_scale that are not finite"),
        ({"offset": np.array([0, np.nan])}, "bias that are not finite"),
        ({"offset": np.zeros(3)}, "don't fit each other"),
        ({"trust": np.array([0, 1])}, "base_scale that is not above 0"),
    ],
)
def test_a_damaged_version_of_old_is_refused(changes: dict[str, np.ndarray], said: str) -> None:
    changes = {name: value.astype(np.float32) for name, value in changes.items()}
    with pytest.raises(VersionDamaged, match=said):
        Delta.from_tensors(("cat", "dog"), old_tensors(**changes))


def test_features_are_the_global_token() -> None:
    tokens = np.arange(2 * 3 * 4, dtype=np.float16).reshape(2, 3, 4)
    found = features_of(tokens)
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]


def test_tensors_carry_everything_but_the_tags() -> None:
    tensors = delta().to_tensors()
    assert set(tensors) == set(TENSORS)
    again = Delta.from_tensors(("cat", "dog"), tensors)
    z, features = np.ones((1, 2), dtype=np.float32), np.ones((1, 3), dtype=np.float32)
    assert again.log_odds(z, features).tobytes() == delta().log_odds(z, features).tobytes()
    assert np.array_equal(again.thresholds, delta().thresholds)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tags": ("cat", "cat")}, "names a tag twice"),
        ({"tags": ("cat", "")}, "an empty one"),
        ({"tags": ("cat", "dog", "cow")}, "is for 3 tags"),
        ({"base_scale": np.array([0.0, 1.0])}, "base_scale that is not above 0"),
        ({"base_scale": np.array([1.0])}, r"has base_scale \(1,\)"),
        ({"bias": np.array([np.nan, 0])}, "bias that are not finite"),
        ({"weight": np.full((2, 3), np.inf)}, "weight that are not finite"),
        ({"thresholds": np.array([0.5, 1.0])}, r"outside \[0, 1\)"),
        ({"thresholds": np.array([-0.1, 0.5])}, r"outside \[0, 1\)"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(VersionDamaged, match=said):
        delta(**changes)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight", np.zeros((2, 3)), "float64 instead of float32"),
        ("weight", np.zeros(2, dtype=np.float32), r"weight \(2,\)"),
        ("extra", np.zeros(1, dtype=np.float32), "extra"),
        ("bias", None, r"arrays \['base_scale', 'thresholds', 'weight'\]"),
    ],
)
def test_damaged_tensors_are_refused(name: str, value: np.ndarray | None, said: str) -> None:
    tensors = {key: array for key, array in (delta().to_tensors() | {name: value}).items() if array is not None}
    with pytest.raises(VersionDamaged, match=said):
        Delta.from_tensors(("cat", "dog"), tensors)
