"""Calibration: strictly increasing curves, the sigmoid where there is none."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ram_backend.errors import BundleDamaged
from ram_backend.models.calibration import FILE, Calibration

SOME = Calibration(np.array([0.5, 2.0, 1.0]), np.array([0.0, -1.0, 3.0]), new_slope=0.7, new_offset=-2.0)


def test_scores_are_sigmoids_of_each_tags_own_line() -> None:
    scores = SOME.scores(np.float32([[1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-np.array([0.5, 1.0, 4.0]))), atol=1e-6)
    logits = np.array([[-200.0, -3.0, 0.0], [1.0, 30.0, 200.0]], dtype=np.float32)
    with np.errstate(over="raise"):
        scores = Calibration(np.ones(3), np.zeros(3)).scores(logits)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-7)


def test_a_bundle_s_file_is_read_and_without_one_it_is_the_identity(tmp_path: Path) -> None:
    loaded = Calibration.load(tmp_path, 4)
    assert (loaded.slope.tolist(), loaded.offset.tolist()) == ([1.0] * 4, [0.0] * 4)
    save_file({"slope": SOME.slope, "offset": SOME.offset}, tmp_path / FILE)
    loaded = Calibration.load(tmp_path, 3, new_slope=0.7, new_offset=-2.0)
    np.testing.assert_array_equal(loaded.slope, SOME.slope)
    np.testing.assert_array_equal(loaded.offset, SOME.offset)
    assert (loaded.new_slope, loaded.new_offset) == (0.7, -2.0)


def test_a_file_for_other_tags_or_of_rubbish_is_damage(tmp_path: Path) -> None:
    save_file({"slope": SOME.slope, "offset": SOME.offset}, tmp_path / FILE)
    with pytest.raises(BundleDamaged, match=r"for 3 tags, the vocabulary has 4"):
        Calibration.load(tmp_path, 4)
    (tmp_path / "calibration.safetensors").write_bytes(b"rubbish")
    with pytest.raises(BundleDamaged, match=r"calibration\.safetensors"):
        Calibration.load(tmp_path, 3)


@pytest.mark.parametrize(
    ("slope", "offset"), [([0.0], [0.0]), ([-1.0], [0.0]), ([np.nan], [0.0]), ([1.0], [np.inf]), ([1.0], [0.0, 1.0])]
)
def test_curves_that_do_not_rise_are_refused(slope: list[float], offset: list[float]) -> None:
    with pytest.raises(BundleDamaged):
        Calibration(np.array(slope), np.array(offset))
