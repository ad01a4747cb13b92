"""What a step of tuning sees."""

from __future__ import annotations

import numpy as np
import pytest

from ram_backend.training.tuning_data import batches, drawn_tags, folds, inner_validation


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_validation_takes_whole_groups_and_about_its_share(share: float) -> None:
    groups = np.random.default_rng(0).integers(0, 60, 200)
    chosen = inner_validation(groups, share, 7)
    assert share * 200 - 8 <= chosen.sum() <= share * 200
    assert not set(groups[chosen]) & set(groups[~chosen])
    np.testing.assert_array_equal(chosen, inner_validation(groups, share, 7))
    assert (chosen != inner_validation(groups, share, 8)).any()


def test_validation_never_takes_everything() -> None:
    assert not inner_validation(np.zeros(5, dtype=np.int64), 0.9, 0).any()
    assert not inner_validation(np.arange(5), 0.0, 0).any()


def test_folds_cut_between_groups_and_cover_everything_once() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 100)
    parts = folds(groups, 4, 0)
    assert len(parts) == 4
    np.testing.assert_array_equal(np.sum(parts, axis=0), np.ones(100))
    assert all(not set(groups[part]) & set(groups[~part]) for part in parts)
    assert max(part.sum() for part in parts) - min(part.sum() for part in parts) <= 6
    assert len(folds(np.zeros(3, dtype=np.int64), 4, 0)) == 1


def test_an_epoch_sees_each_image_once() -> None:
    rows = np.arange(3, 50)
    parts = list(batches(rows, 8, np.random.default_rng(0)))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), rows)
    assert {len(part) for part in parts} <= {7, 8}
    assert [len(part) for part in batches(rows[:3], 8, np.random.default_rng(0))] == [3]


def test_tags_of_a_batch_are_known_ones_and_first_those_that_are_there() -> None:
    known = np.ones((4, 30), dtype=bool)
    known[:, 20:] = False
    present = np.zeros_like(known)
    present[0, [2, 5]] = present[3, 25] = True
    rng = np.random.default_rng(0)
    assert drawn_tags(known, present, 64, rng).tolist() == list(range(20))
    few = drawn_tags(known, present, 8, rng)
    assert len(few) == len(set(few)) == 8
    assert {2, 5} <= set(few)
    assert few.max() < 20
