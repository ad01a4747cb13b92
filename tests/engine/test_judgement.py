"""Planted wrong and missing labels are found, on synthetic images whose tags are directions of their tokens."""

from dataclasses import replace

import numpy as np
import pytest

from ram_backend.engine.findings import ADD_ABOVE, DROP_BELOW, findings_of
from ram_backend.engine.noise_model import fit_noise_model
from ram_backend.engine.signals import SIGNALS, CrossFittedRidge, Portion
from ram_backend.gate.training_set import FOLDS

IMAGES, TAGS, WIDTH, REGIONS = 600, 6, 48, 4


@pytest.fixture(scope="module")
def planted() -> tuple[list[Portion], np.ndarray]:
    """Portions with noisy labels, and the clean labels."""
    random = np.random.default_rng(7)
    clean = random.random((IMAGES, TAGS)) < 0.15
    directions = random.standard_normal((TAGS, WIDTH))
    tokens = random.standard_normal((IMAGES, 1 + REGIONS, WIDTH))
    place = random.integers(1, 1 + REGIONS, size=(IMAGES, TAGS))
    for image, tag in np.argwhere(clean):
        tokens[image, 0] += directions[tag]
        tokens[image, place[image, tag]] += 2 * directions[tag]
    noisy = clean & (random.random(clean.shape) > 0.25)
    noisy |= ~clean & (random.random(clean.shape) < 0.03)
    scores = (tokens[:, 0] @ directions.T).astype(np.float32) * 0.1
    folds = random.integers(FOLDS, size=IMAGES)
    known = np.ones_like(noisy)
    each = (folds, tokens.astype(np.float16), scores, noisy, known)
    return [Portion(*(part[at : at + 250] for part in each)) for at in range(0, IMAGES, 250)], clean


def test_wrong_labels_are_found_missing_ones_proposed_and_the_noise_is_measured(planted) -> None:
    portions, clean = planted
    evidence = CrossFittedRidge(portions)
    signals = [evidence.signals(portion) for portion in portions]
    labels, known = [portion.labels for portion in portions], [portion.known for portion in portions]
    model = fit_noise_model(signals, labels, known, evidence.rates)
    present = np.concatenate([model.present(*each) for each in zip(signals, labels, strict=True)])
    noisy = np.concatenate(labels)
    suspected, proposed = noisy & (present < DROP_BELOW), ~noisy & (present >= ADD_ABOVE)
    assert (suspected & ~clean).sum() / suspected.sum() >= 0.65
    assert (suspected & ~clean).sum() / (noisy & ~clean).sum() >= 0.55
    assert (suspected & clean).sum() / (noisy & clean).sum() <= 0.10
    assert proposed.sum() >= 20
    assert (proposed & clean).sum() / proposed.sum() >= 0.65
    assert present[noisy].mean() == pytest.approx(clean[noisy].mean(), abs=0.06)
    assert model.missing == pytest.approx(0.25, abs=0.08)


def test_a_label_says_nothing_about_itself(planted) -> None:
    portions, _ = planted
    first = portions[0]
    turned = first.labels.copy()
    turned[3] = ~turned[3]
    others = [replace(first, labels=turned), *portions[1:]]
    before, after = (CrossFittedRidge(each).signals(each[0])[:, 3] for each in (portions, others))
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_unknown_pairs_are_no_findings_and_missing_tags_need_two_votes() -> None:
    standard = np.full((len(SIGNALS), 1, 3), 2.0)
    standard[1:, 0, 1] = 0.0
    on, known = np.array([[False, False, False]]), np.array([[True, True, False]])
    found = list(findings_of(np.array([7]), ["a", "b", "c"], np.full((1, 3), 0.9), standard, on, known))
    assert [(each.number, each.tag, each.kind) for each in found] == [(7, "a", "missing")]
    assert found[0].probability == pytest.approx(0.9)
