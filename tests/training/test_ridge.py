"""The closed-form ridge against refitting by brute force, and the sharing between tags of similar meaning."""

import numpy as np
import pytest

from ram_backend.training.ridge import SPREAD_FLOOR, KernelEigen, smoothing_matrix, standardised_targets


def drawn(images: int, width: int, tags: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and weights with some pairs unknown and others half believed."""
    random = np.random.default_rng(seed)
    features = (random.normal(size=(images, width)) * np.arange(1, width + 1)).astype(np.float32)
    labels = features[:, :tags] + random.normal(size=(images, tags)) > 0.3
    weights = random.choice([0, 0.5, 1], size=labels.shape, p=[0.1, 0.3, 0.6]).astype(np.float32)
    return features, labels, weights


def plain_ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts by solving the normal equations, intercept not penalised."""
    centre = features.mean(axis=0)
    moved = features - centre
    weight = np.linalg.solve(moved.T @ moved + penalty * np.eye(features.shape[1]), moved.T @ targets)
    return weight, targets.mean(axis=0) - centre @ weight


@pytest.mark.parametrize(("images", "width"), [(12, 30), (60, 7)])
def test_weights_are_those_of_a_ridge_on_scaled_features(images: int, width: int) -> None:
    features, labels, weights = drawn(images, width)
    targets = standardised_targets(labels, weights)
    ridge = KernelEigen.of(features).ridge(targets, np.arange(images), strength=3.0)
    spread = features.astype(np.float64).std(axis=0) + SPREAD_FLOOR
    by_hand, intercept = plain_ridge(features / spread, targets, 3.0 * images)
    assert ridge.weight == pytest.approx((by_hand / spread[:, None]).T, abs=1e-6)
    assert ridge.bias == pytest.approx(intercept, abs=1e-6)


@pytest.mark.parametrize(("images", "width"), [(12, 30), (40, 7)])
def test_left_out_scores_are_those_of_models_that_never_saw_the_group(images: int, width: int) -> None:
    features, labels, weights = drawn(images, width, seed=1)
    targets = standardised_targets(labels, weights)
    groups = np.arange(images)
    groups[[2, 5, 7]] = 2
    groups[[0, 11]] = 0
    strength = 2.0
    found = KernelEigen.of(features).ridge(targets, groups, strength).out_of_group_scores
    scale = (features.astype(np.float64).std(axis=0) + SPREAD_FLOOR) * np.sqrt(width)
    for group in np.unique(groups):
        out = groups == group
        weight, intercept = plain_ridge(features[~out] / scale, targets[~out], strength * images / width)
        refitted = features[out] / scale @ weight + intercept - targets[~out].mean(axis=0)
        assert found[out] == pytest.approx(refitted, abs=1e-6)


def test_unknown_pairs_and_uniform_tags_pull_nowhere() -> None:
    labels = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]], dtype=bool)
    weights = np.array([[1, 1, 1, 0], [1, 1, 0.5, 0], [0, 1, 1, 0]], dtype=np.float32)
    targets = standardised_targets(labels, weights)
    assert np.all(targets[:, 1:] == 0), "all present, all absent, nobody said"
    assert targets[2, 0] == 0
    assert targets[0, 0] > 0 > targets[1, 0]
    assert targets.sum(axis=0) == pytest.approx(np.zeros(4))
    weights[1, 0] = 0.5
    assert targets[1, 0] < standardised_targets(labels, weights)[1, 0] < 0, "half believed, it pulls less"


def test_equal_images_and_one_group_give_no_evidence() -> None:
    features, labels, weights = drawn(6, 5)
    targets = standardised_targets(labels, weights)
    assert np.all(KernelEigen.of(features).ridge(targets, np.zeros(6, dtype=np.int64), 6.0).out_of_group_scores == 0)
    same = KernelEigen.of(np.ones((6, 5), dtype=np.float32)).ridge(targets, np.arange(6), 6.0)
    assert np.all(same.weight == 0)
    assert same.out_of_group_scores == pytest.approx(np.zeros_like(targets), abs=1e-9)


def test_rare_tags_borrow_from_frequent_ones_of_like_meaning() -> None:
    directions = np.eye(4)[[0, 0, 1, 2]] + 0.1 * np.eye(4)[[3, 0, 3, 3]]
    embeddings = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    smoothing = smoothing_matrix(embeddings, np.array([400, 0, 300, 2]))
    assert smoothing[0, 1] > 0.5, "the alike one lends"
    assert abs(smoothing[2, 1]) < 0.1, "the other doesn't"
    assert np.all(smoothing[1] == 0), "who was never seen has nothing to lend"
    assert smoothing[0, 0] > 0.7 > smoothing[3, 3], "frequent tags keep their own, rare ones are shrunk"
