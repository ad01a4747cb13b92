"""Paired bootstrap and permutation test against plain formulas, and against how often they are wrong."""

from __future__ import annotations

from dataclasses import asdict
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend import metrics
from ram_backend.gate import statistics
from ram_backend.gate.statistics import compare_rankings, permutation_test

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


def ranking(seed: int, images: int = 40, tags: int = 12, share: float = 0.1) -> tuple[Array, Labels]:
    """Scores that know something about the labels."""
    random = np.random.default_rng(seed)
    labels = random.random((images, tags)) < share
    return random.normal(size=(images, tags)) + labels, labels


def worse(scores: Array, seed: int, noise: float) -> Array:
    return scores + np.random.default_rng([7, seed]).normal(size=scores.shape) * noise


def compare(before: Array, after: Array, labels: Labels, **options: object) -> statistics.RankingChange:
    inputs = {"weights": np.ones(labels.shape), "groups": np.arange(len(labels)), **options}
    return compare_rankings(before, after, labels, **inputs)  # type: ignore[arg-type]


def test_macro_figures_are_the_metric() -> None:
    scores, labels = ranking(0)
    scores = np.round(scores, 1)  # with ties
    known = np.random.default_rng(1).random(labels.shape) < 0.8
    found = compare(scores, worse(scores, 0, 1.0), labels, weights=known.astype(np.float64))
    counted = (labels & known).any(axis=0)
    assert found.tags == counted.sum()
    assert found.positives == (labels & known).sum()
    assert found.macro_before == pytest.approx(metrics.mean_average_precision(scores, labels, known, 1))
    assert found.macro_after == pytest.approx(
        metrics.mean_average_precision(worse(scores, 0, 1.0), labels, known, min_positives=1)
    )


def test_tags_count_by_the_root_of_their_positives() -> None:
    scores, labels = ranking(0)
    precisions, positives = metrics.average_precision_per_tag(scores, labels), labels.sum(axis=0)
    kept = positives > 0
    expected = np.average(precisions[kept], weights=np.sqrt(positives[kept]))
    assert compare(scores, scores, labels).before == pytest.approx(expected)


def test_weights_count_pairs_in_part() -> None:
    """A positive of weight 1 below a negative of weight .5: precision 1 / 1.5."""
    scores, labels = np.array([[3.0], [2.0], [1.0]]), np.array([[False], [True], [False]])
    found = compare(scores, scores, labels, weights=np.array([[0.5], [1.0], [1.0]]))
    assert found.before == pytest.approx(1 / 1.5)


def test_resamples_agree_with_drawing_images_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = ranking(1, images=15, tags=3, share=0.3)
    other = worse(scores, 1, 1.0)
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    found = compare(scores, other, labels, seed=5)
    drawn = statistics._draws(np.arange(15), 200, 5)[1:].astype(int)
    changes = []
    for counts in drawn:
        rows = np.repeat(np.arange(15), counts)
        positives = labels[rows].sum(axis=0)
        kept = positives > 0
        one, two = (
            np.average(
                metrics.average_precision_per_tag(values[rows], labels[rows])[kept], weights=positives[kept] ** 0.5
            )
            for values in (scores, other)
        )
        changes.append(two - one)
    assert found.spread == pytest.approx(np.std(changes), rel=1e-4)
    moved = np.array(changes) - np.mean(changes) + found.change
    low, high = np.quantile([changes, moved], [0.025, 0.975], axis=1)
    assert (found.low, found.high) == pytest.approx((low.min(), high.max()), abs=1e-6)
    assert found.probability == pytest.approx(min(np.mean(np.array(changes) > 0), np.mean(moved > 0)), abs=0.006)


def test_look_alikes_are_drawn_together() -> None:
    scores, labels = ranking(2, images=30)
    other = worse(scores, 2, 1.0)
    alone = compare(scores, other, labels)
    rows = np.repeat(np.arange(30), 4)
    together = compare(scores[rows], other[rows], labels[rows], groups=rows)
    independent = compare(scores[rows], other[rows], labels[rows], groups=np.arange(120))
    assert together.spread == pytest.approx(alone.spread, rel=0.05)
    assert independent.spread < 0.8 * together.spread


def test_equal_rankings_are_no_improvement() -> None:
    scores, labels = ranking(3)
    found = compare(scores, 2 * scores + 1, labels)
    assert (found.change, found.probability, found.low, found.high) == (0, 0, 0, 0)


def test_clearly_better_and_clearly_worse() -> None:
    scores, labels = ranking(4, images=120)
    assert compare(worse(scores, 4, 3.0), scores, labels).probability > 0.99
    assert compare(scores, worse(scores, 4, 3.0), labels).probability < 0.01


@pytest.mark.parametrize(("images", "tags", "share"), [(15, 1, 0.5), (20, 30, 0.05), (40, 10, 0.1)])
def test_candidates_no_better_pass_the_level_as_often_as_it_says(images: int, tags: int, share: float) -> None:
    passed = []
    for seed in range(100):
        scores, labels = ranking(seed, images, tags, share)
        found = compare(worse(scores, seed, 0.7), worse(scores, 1000 + seed, 0.7), labels, seed=seed)
        assert found.low <= found.change <= found.high
        passed.append(found.probability >= 0.95)
    assert np.mean(passed) < 0.1  # .05, and more than twice its standard error


def test_same_seed_same_answer_and_another_seed_nearly() -> None:
    scores, labels = ranking(5)
    other = worse(scores, 5, 0.5)
    first, again, second = (compare(scores, other, labels, seed=seed) for seed in (1, 1, 2))
    assert asdict(first) == asdict(again)
    assert first.probability != second.probability
    assert first.probability == pytest.approx(second.probability, abs=0.06)


def test_nothing_to_compare() -> None:
    scores, labels = ranking(6)
    for none in (np.zeros_like(labels), np.ones_like(labels)):
        found = compare(scores, scores, none)
        assert found.tags == 0
        assert found.probability == 0
        assert np.isnan(found.before)
    assert compare(scores, scores, labels, weights=np.zeros(labels.shape)).tags == 0


def test_very_many_images_are_compared_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = ranking(7, images=200)
    monkeypatch.setattr(statistics, "MOST_COMPARED", 50)
    found = compare(scores, worse(scores, 7, 1.0), labels, groups=np.repeat(np.arange(100), 2))
    assert 0 < found.positives < 0.7 * labels.sum()


def test_work_is_bounded_by_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = ranking(7)
    draws = mock.Mock(wraps=statistics._draws)
    monkeypatch.setattr(statistics, "_draws", draws)
    monkeypatch.setattr(statistics, "WORK", 1.0)
    compare(scores, scores, labels)
    assert draws.call_args.args[1] == statistics.FEWEST_RESAMPLES


def test_blocks_don_t_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = ranking(8, images=60, tags=3, share=0.5)
    other = worse(scores, 8, 1.0)
    whole = compare(scores, other, labels)
    monkeypatch.setattr(statistics, "BLOCK", 7)
    assert asdict(compare(scores, other, labels)) == pytest.approx(asdict(whole), abs=1e-5)


def related(scores: Array, labels: Labels, **options: object) -> statistics.AssociationTest:
    inputs = {"weights": np.ones(labels.shape), "groups": np.arange(len(labels)), **options}
    return permutation_test(scores, labels, **inputs)  # type: ignore[arg-type]


def test_place_is_the_area_under_the_curve() -> None:
    scores, labels = ranking(9, images=50, tags=1)
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped, unused-ignore]

    rights = labels[:, 0].sum()
    area = roc_auc_score(labels[:, 0], scores[:, 0])
    place = related(scores, labels).mean_rank
    # the place among all images, other right ones included, comes a little nearer to the middle
    assert place - 0.5 == pytest.approx((area - 0.5) * (50 - rights) / 49)


def test_honest_labels_are_related_and_permuted_ones_are_not() -> None:
    rejected, smallest = [], []
    for seed in range(60):
        scores, labels = ranking(seed, images=60)
        smallest.append(related(scores, labels, seed=seed).p_value)
        permuted = labels[np.random.default_rng([1, seed]).permutation(60)]
        rejected.append(related(scores, permuted, seed=seed).p_value)
    assert max(smallest) <= 0.01
    assert np.mean(np.array(rejected) <= 0.05) < 0.12
    assert np.median(rejected) > 0.3


def test_many_tags_a_little_better_than_chance_show_together() -> None:
    random = np.random.default_rng(0)
    labels = random.random((100, 40)) < 0.03
    scores = random.normal(size=labels.shape) + 0.7 * labels
    alone = [related(scores[:, [tag]], labels[:, [tag]]).p_value for tag in range(40)]
    assert np.median(alone) > 0.05
    assert related(scores, labels).p_value <= 0.01


def test_prevalence_alone_is_no_relation() -> None:
    """Scores that know how frequent a tag is, and nothing about images."""
    random = np.random.default_rng(0)
    rates = random.random(30) * 0.5
    labels = random.random((80, 30)) < rates
    scores = np.log(rates) + random.normal(size=labels.shape) * 0.1
    assert related(scores, labels).p_value > 0.01


def test_copies_of_an_image_are_no_independent_proof() -> None:
    scores, labels = ranking(12, images=6, tags=4, share=0.3)
    scores, labels = np.repeat(scores, 20, axis=0), np.repeat(labels, 20, axis=0)
    apart = related(scores, labels, groups=np.arange(120)).p_value
    together = related(scores, labels, groups=np.repeat(np.arange(6), 20)).p_value
    assert apart == 0.001 < together


def test_without_right_pairs_or_with_one_group_nothing_is_related() -> None:
    scores, labels = ranking(13)
    assert related(scores, np.zeros_like(labels)).p_value == 1
    assert related(scores, labels, weights=np.zeros(labels.shape)).p_value == 1
    assert related(scores, labels, groups=np.zeros(40, dtype=int)).p_value == 1


def test_very_many_images_are_permuted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = ranking(14, images=400)
    monkeypatch.setattr(statistics, "MOST_PERMUTED", 100)
    assert related(scores, labels).p_value <= 0.01
