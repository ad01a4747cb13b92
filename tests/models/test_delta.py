"""What a version changes about a bundle: a linear delta per tag, taken apart and put together again."""

from typing import Any

import numpy as np
import pytest

from ram_backend.errors import VersionDamaged
from ram_backend.models.delta import Delta


def delta(**changes: Any) -> Delta:
    matrices = {"base_scale": np.array([0.5, 2]), "weight": np.array([[1, 0, -1], [0, 3, 0]])}
    columns = {"bias": np.array([0.25, -1]), "thresholds": np.array([0.3, 0.6])}
    return Delta(**{"tags": ("cat", "dog"), **matrices, **columns, **changes})


def test_log_odds_are_scaled_ones_plus_a_linear_model_of_the_image() -> None:
    z = np.array([[4, -1], [0, 0]], dtype=np.float32)
    features = np.array([[1, 2, 3], [0, 1, 0]], dtype=np.float32)
    by_hand = np.array([[0.5 * 4 + 1 - 3 + 0.25, 2 * -1 + 6 - 1], [0.25, 3 - 1]])
    assert delta().log_odds(z, features) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tags": ("cat", "cat")}, "names a tag twice"),
        ({"tags": ("cat", "")}, "an empty one"),
        ({"tags": ("cat", "dog", "cow")}, "is for 3 tags"),
        ({"base_scale": np.array([0.0, 1.0])}, "base_scale that is not above 0"),
        ({"base_scale": np.array([1.0])}, r"has base_scale \(1,\)"),
        ({"bias": np.array([np.nan, 0])}, "bias that are not finite"),
        ({"thresholds": np.array([0.5, 1.0])}, r"outside \[0, 1\)"),
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
