"""Linear probes: own directions fitted in closed form, borrowed ones for tags of similar meaning."""

import numpy as np
import pytest

from ram_backend.models.starter.components import Probes
from starter.probes import fit_probes

FEATURES = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)
STATES = (FEATURES[:, :3] > 1).astype(np.int8)
EMBEDDINGS = np.eye(3, 8, dtype=np.float32)
"""Of three tags, each of which is one feature being large."""


def probes_of(photos: int) -> Probes:
    """The fitted probes, as if of so many photos each."""
    fitted = fit_probes([FEATURES], STATES, EMBEDDINGS, strength=0.1)
    return Probes(fitted.weight, fitted.bias, fitted.embeddings, np.full(3, photos, dtype=np.int32))


def test_a_probe_ranks_photos_by_its_own_feature() -> None:
    probes = fit_probes([FEATURES[:300]], STATES[:300], EMBEDDINGS, strength=0.1)
    scores = FEATURES[300:] @ probes.weight.T + probes.bias
    for tag in range(3):
        right = STATES[300:, tag] == 1
        assert scores[right, tag].min() > np.median(scores[~right, tag])
    np.testing.assert_array_equal(probes.counts, (STATES[:300] == 1).sum(0))


def test_unknown_pairs_teach_nothing() -> None:
    hidden = STATES.copy()
    hidden[:, 2] = -1
    hidden[:10, 2] = STATES[:10, 2]
    probes = fit_probes([FEATURES], hidden, EMBEDDINGS, strength=1.0)
    others = fit_probes([FEATURES], hidden[:, :2], EMBEDDINGS[:2], strength=1.0)
    np.testing.assert_allclose(probes.weight[:2], others.weight, atol=1e-6)
    scaled = (FEATURES - FEATURES.mean(0)) / (FEATURES.std(0) + 1e-3)
    rate = (hidden[:10, 2] == 1).mean()
    pull = scaled[:10].T @ ((hidden[:10, 2] == 1) - rate) / (np.sqrt(rate * (1 - rate)) + 0.02)  # of known pairs alone
    expected = np.linalg.solve(scaled.T @ scaled + len(FEATURES) * np.eye(12), pull) / (FEATURES.std(0) + 1e-3)
    np.testing.assert_allclose(probes.weight[2], expected, atol=1e-5)
    absent = np.where(hidden == -1, 0, hidden).astype(np.int8)
    assert np.abs(fit_probes([FEATURES], absent, EMBEDDINGS, strength=1.0).weight[2] - expected).max() > 1e-3


def test_a_similar_text_borrows_and_a_strange_one_does_not() -> None:
    probes = probes_of(500)
    near = EMBEDDINGS[0] + 0.05 * np.eye(8, dtype=np.float32)[7]
    near /= np.linalg.norm(near)
    far = np.eye(8, dtype=np.float32)[6]
    weight, bias = probes.of_tags(np.stack([near, far]), [None, None])
    assert weight.shape == (2, 12)
    assert bias.shape == (2,)
    cosine = weight[0] @ probes.weight[0] / np.linalg.norm(weight[0]) / np.linalg.norm(probes.weight[0])
    assert cosine > 0.99
    assert np.linalg.norm(weight[1]) < 0.01 * np.linalg.norm(weight[0])


def test_concepts_with_few_photos_count_less() -> None:
    few, many = (np.linalg.norm(probes_of(photos).of_tags(EMBEDDINGS[:1], [None])[0]) for photos in (2, 2000))
    assert few < 0.5 * many
    assert many == pytest.approx(np.linalg.norm(probes_of(1).weight[0]), rel=0.3)
