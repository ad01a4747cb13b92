"""Sign-flip test, ranking and permutation test: against plain formulas, and against how often they are wrong."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend import metrics
from ram_backend.gate.statistics import compare_edits, permutation_test, ranking_change

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


def ranking(seed: int, images: int = 40, tags: int = 12, share: float = 0.1) -> tuple[Array, Labels]:
    """Scores that know something about the labels."""
    random = np.random.default_rng(seed)
    labels = random.random((images, tags)) < share
    return random.normal(size=(images, tags)) + labels, labels


def edits(seed: int, images: int = 60, mean: float = 1.5) -> Array:
    return np.random.default_rng(seed).poisson(mean, images).astype(np.float64)


def test_the_p_value_is_that_of_all_sign_flips() -> None:
    before, after = edits(0, 8), edits(1, 8)
    saved = before - after
    flips = 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1) - 1
    exact = np.mean(flips @ saved >= saved.sum() - 1e-9)
    assert compare_edits(before, after, np.arange(8)).p_value == pytest.approx(exact, abs=0.03)


def test_figures_are_means_and_the_interval_covers_the_change() -> None:
    before = edits(0)
    after = before - (np.arange(60) % 3 == 0) * (before > 0)
    found = compare_edits(before, after, np.arange(60))
    assert (found.before, found.after, found.groups) == (before.mean(), after.mean(), 60)
    assert found.change == pytest.approx(after.mean() / before.mean() - 1)
    low, high = found.interval
    assert low < found.change < high < 0
    assert found.p_value < 0.01


def test_look_alikes_count_as_one_photo() -> None:
    before, after = edits(0, 30), edits(1, 30)
    rows = np.repeat(np.arange(30), 4)
    alone, together = compare_edits(before, after, np.arange(30)), compare_edits(before[rows], after[rows], rows)
    assert together == alone
    assert compare_edits(before[rows], after[rows], np.arange(120)).standard_error < 0.6 * alone.standard_error


@pytest.mark.parametrize("mean", [0.3, 3.0])
def test_candidates_no_better_pass_the_level_as_often_as_it_says(mean: float) -> None:
    found = [compare_edits(edits(s, mean=mean), edits(1000 + s, mean=mean), np.arange(60), s) for s in range(200)]
    assert np.mean([each.p_value <= 0.05 for each in found]) < 0.1  # .05, and more than three times its standard error


def test_equal_edits_save_nothing() -> None:
    before = edits(0)
    found = compare_edits(before, before, np.arange(60))
    assert (found.p_value, found.change, found.interval) == (1, 0, (0, 0))
    nothing = compare_edits(np.zeros(60), np.zeros(60), np.arange(60))
    assert (nothing.change, nothing.interval) == (0, (0, 0))


def test_ranking_is_the_metrics_average_precision_within_folds() -> None:
    before, labels = ranking(0, images=60)
    after = before + labels
    known = np.random.default_rng(1).random(labels.shape) < 0.8
    one_fold = ranking_change(before, after, labels, known, np.zeros(60, dtype=np.int64))[0]
    values = [metrics.mean_average_precision(each, labels, known, 1) for each in (before, after)]
    assert one_fold == pytest.approx(values[1] - values[0])
    folds = np.arange(60) % 5
    shifted = before + np.array([0, 3, -3, 1, -1])[folds][:, None]
    assert ranking_change(before, shifted, labels, known, folds)[0] == 0, "offsets of a fold rank nothing"
    assert ranking_change(before, after, np.zeros_like(labels), known, folds) == (0, 0)


def related(scores: Array, labels: Labels, **options: object) -> dict[str, float]:
    inputs = {"weights": np.ones(labels.shape), "groups": np.arange(len(labels)), **options}
    return permutation_test(scores, labels, **inputs)  # type: ignore[arg-type]


def test_honest_labels_are_related_and_permuted_ones_are_not() -> None:
    rejected, smallest = [], []
    for seed in range(60):
        scores, labels = ranking(seed, images=60)
        smallest.append(related(scores, labels, seed=seed)["p_unrelated"])
        permuted = labels[np.random.default_rng([1, seed]).permutation(60)]
        rejected.append(related(scores, permuted, seed=seed)["p_unrelated"])
    assert max(smallest) <= 0.01
    assert np.mean(np.array(rejected) <= 0.05) < 0.12
    assert np.median(rejected) > 0.3


def test_many_tags_a_little_better_than_chance_show_together() -> None:
    random = np.random.default_rng(0)
    labels = random.random((100, 40)) < 0.03
    scores = random.normal(size=labels.shape) + 0.7 * labels
    alone = [related(scores[:, [tag]], labels[:, [tag]])["p_unrelated"] for tag in range(40)]
    assert np.median(alone) > 0.05
    assert related(scores, labels)["p_unrelated"] <= 0.01


def test_prevalence_alone_is_no_relation() -> None:
    """Scores that know how frequent a tag is, and nothing about images."""
    random = np.random.default_rng(0)
    rates = random.random(30) * 0.5
    labels = random.random((80, 30)) < rates
    scores = np.log(rates) + random.normal(size=labels.shape) * 0.1
    assert related(scores, labels)["p_unrelated"] > 0.01


def test_copies_of_an_image_are_no_independent_proof() -> None:
    scores, labels = ranking(12, images=6, tags=4, share=0.3)
    scores, labels = np.repeat(scores, 20, axis=0), np.repeat(labels, 20, axis=0)
    apart = related(scores, labels, groups=np.arange(120))["p_unrelated"]
    together = related(scores, labels, groups=np.repeat(np.arange(6), 20))["p_unrelated"]
    assert apart == 0.001 < together


def test_without_right_pairs_or_with_one_group_nothing_is_related() -> None:
    scores, labels = ranking(13)
    assert related(scores, np.zeros_like(labels))["p_unrelated"] == 1
    assert related(scores, labels, weights=np.zeros(labels.shape))["p_unrelated"] == 1
    assert related(scores, labels, groups=np.zeros(40, dtype=int))["p_unrelated"] == 1
