"""Drift: other photos raise the alarm soon, photos like those of the fit hardly ever."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend.training.drift import ALARM_RATE, MOST_FEATURES, Novelty, drift_of, drift_since, write_fit_features

WIDTH = 40


def features(seed: int, images: int, *, shift: float = 0.0) -> NDArray[np.float32]:
    """Of images, dependent on each other; `shift` of the first three, in standard deviations."""
    drawn = np.random.default_rng(seed)
    found = drawn.normal(0, 1, (images, 1)) + drawn.normal(0, 1, (images, WIDTH))
    found[:, :3] += shift * 2**0.5
    return found.astype(np.float32)


def sha256(number: int) -> str:
    return f"{number:016x}" + "0" * 48


@pytest.mark.parametrize("shift", [1.5, -1.5])
def test_other_photos_raise_it_within_100(shift: float) -> None:
    found = [drift_of(features(seed, 100), features(seed + 1000, 300, shift=shift)).alarm_at for seed in range(10)]
    assert all(each is not None and each <= 100 for each in found), found


def test_photos_like_those_of_the_fit_raise_none_within_1000() -> None:
    """Three times the expected number of false alarms, at ten times the rate, is less probable than 1 in 1,000."""
    rate, runs = 10 * ALARM_RATE, 30
    found = [drift_of(features(seed, 60), features(seed + 1000, 1000), rate=rate).alarm_at for seed in range(runs)]
    assert sum(each is not None for each in found) <= 3 * rate * runs


def test_equal_features_are_no_evidence() -> None:
    same = np.full((400, WIDTH), 0.5, dtype=np.float32)
    assert drift_of(same, same).alarm_at is None
    one, other = (drift_of(same[:50], features(3, 200)) for _ in range(2))
    assert one == other


def test_what_a_version_keeps_is_compared_with_what_came_since() -> None:
    files = write_fit_features(features(0, 400), [sha256(number) for number in range(400)])
    new = features(1, 200, shift=2.0)
    found = drift_since(files, ((sha256(1000 + number), row) for number, row in enumerate(new)))
    assert (found.photos, found.alarm_at is not None) == (200, True)
    seen = drift_since(files, ((sha256(number), row) for number, row in enumerate(new)))
    assert (seen.photos, seen.alarm_at) == (0, None), "images of the fit say nothing"


def test_a_photo_is_new_by_its_distance_from_the_nearest_one() -> None:
    novelty = Novelty(write_fit_features(features(0, 200), [sha256(number) for number in range(200)]))
    found = [np.median([novelty.of(row) for row in features(1, 200, shift=shift)]) for shift in (0.0, 4.0)]
    assert [novelty.of(row) for row in features(0, 200)[::50]] == pytest.approx([0] * 4, abs=1e-3), "those of the fit"
    assert found[0] == pytest.approx(1, abs=0.2)
    assert found[1] > 1.2 * found[0]
    twice = write_fit_features(features(0, 200).repeat(2, axis=0), [sha256(number) for number in range(400)])
    assert Novelty(twice).of(features(1, 1)[0]) == pytest.approx(novelty.of(features(1, 1)[0])), "copies"


def test_a_version_keeps_little_of_many_wide_features() -> None:
    wide = np.zeros((2000, 3 * MOST_FEATURES + 1), dtype=np.float32)
    files = write_fit_features(wide, [sha256(number) for number in range(2000)])
    assert sum(map(len, files.values())) < 400_000
    assert drift_since(files, [(sha256(5000), wide[0])]).photos == 1
