"""Linear probes: own directions fitted in closed form, borrowed ones for tags of similar meaning."""

import numpy as np
import pytest

from ram_backend.models.starter.components import Probes
from starter.probes import fit_probes


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, states and embeddings of three tags; each tag is one feature being large."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((400, 12)).astype(np.float32)
    states = (features[:, :3] > 1).astype(np.int8)
    return features, states, np.eye(3, 8, dtype=np.float32)


def test_a_probe_ranks_photos_by_its_own_feature() -> None:
    features, states, embeddings = world()
    probes = fit_probes([features[:300]], states[:300], embeddings, strength=0.1)
    scores = features[300:] @ probes.weight.T + probes.bias
    for tag in range(3):
        right = states[300:, tag] == 1
        assert scores[right, tag].min() > np.median(scores[~right, tag])
    np.testing.assert_array_equal(probes.counts, (states[:300] == 1).sum(0))


def test_unknown_pairs_teach_nothing() -> None:
    features, states, embeddings = world()
    hidden = states.copy()
    hidden[:, 2] = -1
    hidden[:10, 2] = states[:10, 2]
    probes = fit_probes([features], hidden, embeddings, strength=1.0)
    others = fit_probes([features], hidden[:, :2], embeddings[:2], strength=1.0)
    np.testing.assert_allclose(probes.weight[:2], others.weight, atol=1e-6)
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-3)
    rate = (hidden[:10, 2] == 1).mean()
    pull = scaled[:10].T @ ((hidden[:10, 2] == 1) - rate) / (np.sqrt(rate * (1 - rate)) + 0.02)  # of known pairs alone
    expected = np.linalg.solve(scaled.T @ scaled + len(features) * np.eye(12), pull) / (features.std(0) + 1e-3)
    np.testing.assert_allclose(probes.weight[2], expected, atol=1e-5)
    absent = np.where(hidden == -1, 0, hidden).astype(np.int8)
    assert np.abs(fit_probes([features], absent, embeddings, strength=1.0).weight[2] - expected).max() > 1e-3


def test_a_similar_text_borrows_and_a_strange_one_does_not() -> None:
    features, states, embeddings = world()
    fitted = fit_probes([features], states, embeddings, strength=0.1)
    probes = Probes(fitted.weight, fitted.bias, fitted.embeddings, np.full(3, 500, dtype=np.int32))
    near = embeddings[0] + 0.05 * np.eye(8, dtype=np.float32)[7]
    near /= np.linalg.norm(near)
    far = np.eye(8, dtype=np.float32)[6]
    weight, bias = probes.of_tags(np.stack([near, far]), [None, None])
    assert weight.shape == (2, 12)
    assert bias.shape == (2,)
    cosine = weight[0] @ probes.weight[0] / np.linalg.norm(weight[0]) / np.linalg.norm(probes.weight[0])
    assert cosine > 0.99
    assert np.linalg.norm(weight[1]) < 0.01 * np.linalg.norm(weight[0])


def test_concepts_with_few_photos_count_less() -> None:
    features, states, embeddings = world()
    fitted = fit_probes([features], states, embeddings, strength=0.1)
    lengths = []
    for count in (2, 2000):
        probes = Probes(fitted.weight, fitted.bias, fitted.embeddings, np.full(3, count, dtype=np.int32))
        lengths.append(np.linalg.norm(probes.of_tags(embeddings[:1], [None])[0]))
    assert lengths[0] < 0.5 * lengths[1]
    assert lengths[1] == pytest.approx(np.linalg.norm(fitted.weight[0]), rel=0.3)
