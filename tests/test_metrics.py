"""Metrics against numbers worked out by hand, and against what must hold for any data."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from ram_backend import metrics
from ram_backend.errors import InputError

# One tag each: relevant at ranks 1 and 3 of 4; relevant at rank 2 only; never relevant.
SCORES = np.array([[0.9, 0.9, 0.9], [0.8, 0.8, 0.1], [0.7, 0.7, 0.1], [0.6, 0.6, 0.1]])
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Scores on a coarse grid (so that ties happen), labels, known."""
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 5)))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 10))) / 10
    return scores, draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


@given(samples())
def test_average_precision_is_that_of_scikit_learn(sample: Sample) -> None:
    scores, labels, known = sample
    for tag, found in enumerate(metrics.average_precision_per_tag(scores, labels, known)):
        rows = known[:, tag]
        if labels[rows, tag].any():
            assert found == pytest.approx(average_precision_score(labels[rows, tag], scores[rows, tag]))
        else:
            assert math.isnan(found)


def test_mean_average_precision_counts_tags_with_enough_known_positives() -> None:
    assert metrics.mean_average_precision(SCORES, LABELS, min_positives=1) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert metrics.mean_average_precision(SCORES, LABELS, min_positives=2) == pytest.approx(5 / 6)
    assert math.isnan(metrics.mean_average_precision(SCORES, LABELS))  # by default three are needed
    known = np.ones_like(LABELS)
    known[2, 0] = False
    assert metrics.mean_average_precision(SCORES, LABELS, known, min_positives=1) == pytest.approx((1 + 1 / 2) / 2)
    assert math.isnan(metrics.mean_average_precision(SCORES, LABELS, known, min_positives=2))


def test_edits_are_removed_ticks_and_added_tags_at_their_cost() -> None:
    known = np.ones(LABELS.shape, dtype=bool)
    known[0, 2] = False
    assert metrics.edits(SCORES, LABELS, 0.75).tolist() == [2, 1, 1, 0]
    assert metrics.edits(SCORES, LABELS, 0.75, known, add_costs=4).tolist() == [1, 1, 4, 0]
    assert metrics.edits(SCORES, LABELS, [1, 1, 0.5], known, add_costs=[4, 2, 1]).tolist() == [4, 2, 4, 0]


def f1(*arrays: Any, **options: Any) -> float:
    return metrics.precision_recall_f1(*arrays, **options)[2]


def test_f1_where_nothing_is_on_or_right() -> None:
    assert f1([[0.5], [0.6]], [[1], [1]], 0.5) == pytest.approx(2 / 3), "at the threshold it is off"
    nothing = np.zeros((3, 2), dtype=bool)
    assert math.isnan(f1(np.zeros((3, 2)), nothing, 0.5))
    assert f1(np.ones((3, 2)), nothing, 0.5) == 0.0
    assert math.isnan(f1(np.ones((3, 2)), nothing, 0.5, average="macro"))


def test_precision_at_k_by_hand() -> None:
    scores = [[0.9, 0.8, 0.1], [0.1, 0.9, 0.8]]
    labels = [[1, 0, 1], [0, 1, 1]]
    assert metrics.precision_at_k(scores, labels, None, 1) == pytest.approx(1.0)
    assert metrics.precision_at_k(scores, labels, None, 2) == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert metrics.precision_at_k(scores, labels, None, 99) == pytest.approx((2 / 3 + 2 / 3) / 2)
    known = [[0, 1, 1], [0, 0, 0]]  # the second image is left out
    assert metrics.precision_at_k(scores, labels, known, 1) == pytest.approx(0.0)
    assert math.isnan(metrics.precision_at_k(scores, labels, np.zeros((2, 3), dtype=bool), 1))
    tied = metrics.precision_at_k([[0.9, 0.5, 0.5, 0.5]], [[1, 1, 0, 0]], None, 2)
    assert tied == pytest.approx((1 + 1 / 3) / 2), "they share the places"


def test_calibration_error_by_hand() -> None:
    scores = np.array([[0.90, 0.92], [0.30, 0.32], [0.04, 0.05]])  # the last row is not above the floor
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    # bin [.8667, .9333): mean score .91, half right; bin [.2667, .3333): mean .31, none right
    expected = (2 * abs(0.91 - 0.5) + 2 * 0.31) / 4
    assert metrics.calibration_error(scores, labels) == pytest.approx(expected)
    known = np.array([[1, 1], [0, 0], [1, 1]])
    assert metrics.calibration_error(scores, labels, known) == pytest.approx(0.41)
    edges = metrics.calibration_error([[0.4, 0.45, 0.95, 1.0]], [[0, 1, 0, 1]])
    assert edges == pytest.approx((0.15 + 0.95) / 4), "a bin holds its lower bound, the last one also 1"
    assert metrics.calibration_error(np.full((10, 1), 0.3), np.arange(10)[:, None] < 3) == pytest.approx(0.0)
    assert math.isnan(metrics.calibration_error([[0.01, 0.05]], [[0, 1]])), "none is above the floor"
    mean, share, pairs = metrics.reliability(scores, labels)
    filled = pairs > 0
    assert (mean[filled].tolist(), share[filled].tolist()) == (pytest.approx([0.31, 0.91]), [0, 0.5])
    assert np.isnan(mean[~filled]).all()


@given(samples())
def test_unknown_pairs_change_nothing(sample: Sample) -> None:
    scores, labels, known = sample
    other_scores, other_labels = np.where(known, scores, np.nan), np.where(known, labels, ~labels)
    for measure in (metrics.calibration_error, lambda s, y, m: f1(s, y, 0.45, m)):
        assert measure(other_scores, other_labels, known) == pytest.approx(measure(scores, labels, known), nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.average_precision_per_tag([[0.1]], [[1, 0]]), "share one shape"),
        (lambda: metrics.average_precision_per_tag([0.1], [1]), "share one shape"),
        (lambda: metrics.average_precision_per_tag([[math.nan]], [[1]]), "nan"),
        (lambda: metrics.average_precision_per_tag([[0.1]], [[-1]]), "`known`"),
        (lambda: f1([[0.1, 0.2]], [[1, 0]], [0.5, 0.5, 0.5]), "thresholds"),
        (lambda: metrics.calibration_error([[4.2]], [[1]]), "logits"),
    ],
)
def test_what_can_not_be_measured_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]


def ram_script(scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> tuple[float, float, float]:
    """RAM's evaluation by hand, from its description: loops over tags and ranks."""
    aps, precisions, recalls = [], [], []
    for tag in range(scores.shape[1]):
        hits, total = 0, 0.0
        for rank, row in enumerate(np.argsort(scores[:, tag])[::-1], start=1):
            if labels[row, tag]:
                hits += 1
                total += hits / rank
        aps.append(total / (hits + 1e-8))
        on = scores[:, tag] > thresholds[tag]
        true = int((on & labels[:, tag]).sum())
        precisions.append(true / (int(on.sum()) + 1e-9))
        recalls.append(true / (int(labels[:, tag].sum()) + 1e-9))
    return float(np.mean(aps)), float(np.mean(precisions)), float(np.mean(recalls))


def test_ram_s_arithmetic_counts_tags_without_positives_as_0() -> None:
    random = np.random.default_rng(3)
    scores, labels = random.random((60, 12)), random.random((60, 12)) < 0.2
    labels[:, 4] = False
    scores[:, 7] = np.round(scores[:, 7], 1)  # ties
    thresholds = random.random(12)
    found = metrics.ram_figures(scores, labels, thresholds)
    assert [found["mAP"], found["CP"], found["CR"]] == pytest.approx(ram_script(scores, labels, thresholds), abs=1e-12)
    assert found["mAP"] < metrics.mean_average_precision(scores, labels)
    known = np.ones_like(labels)
    known[:30, 0] = False
    alone = metrics.ram_figures(scores[30:, :1], labels[30:, :1], thresholds[:1])
    assert metrics.ram_figures(scores[:, :1], labels[:, :1], thresholds[:1], known[:, :1]) == pytest.approx(alone)


def random_sample(images: int = 80, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random((images, 6)) < 0.3
    scores = np.clip(0.3 * labels + 0.7 * random.random((images, 6)), 0, 1)
    return scores, labels, random.random((images, 6)) < 0.9


def test_a_resample_is_the_figure_of_the_resampled_images() -> None:
    scores, labels, known = random_sample()
    weights = metrics.bootstrap_weights(len(scores), 20, seed=1)
    assert (weights.sum(axis=1) == len(scores)).all()
    found = metrics.bootstrap(scores, labels, known, 0.5, weights, min_positives=1)
    for place, counts in enumerate(weights.astype(int)):
        drawn = [np.repeat(each, counts, axis=0) for each in (scores, labels, known)]
        s, y, m = drawn
        expected = {
            "mAP": metrics.mean_average_precision(s, y, m, min_positives=1),
            "precision_at_5": metrics.precision_at_k(s, y, m, 5),
            "micro_f1": f1(s, y, 0.5, m),
            "macro_f1": f1(s, y, 0.5, m, average="macro"),
            "ece": metrics.calibration_error(s, y, m),
        }
        assert {name: values[place] for name, values in found.items()} == pytest.approx(expected)
    assert set(metrics.bootstrap(scores, labels, known, None, weights)) == {"mAP", "precision_at_5"}


def test_intervals_and_paired_differences() -> None:
    scores, labels, known = random_sample()
    weights = metrics.bootstrap_weights(len(scores), 400)
    resampled = metrics.bootstrap(scores, labels, known, 0.5, weights)["mAP"]
    low, high = metrics.interval(resampled)
    assert low < metrics.mean_average_precision(scores, labels, known) < high
    assert metrics.paired_p_value(resampled, resampled) == 1.0
    better = metrics.bootstrap(np.clip(scores + 0.3 * labels, 0, 1), labels, known, 0.5, weights)["mAP"]
    assert metrics.paired_p_value(resampled, better) == pytest.approx(2 / 401)
    noise = np.random.default_rng(0).normal(0, 1e-3, scores.shape)
    same = metrics.bootstrap(scores + noise, labels, known, None, weights)
    assert metrics.paired_p_value(resampled, same["mAP"]) > 0.05
    assert all(map(math.isnan, metrics.interval(np.array([np.nan]))))
