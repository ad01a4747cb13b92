"""Which pairs are evidence: all of honest annotators, some of those who only remove, none of those who accept all."""

from __future__ import annotations

import numpy as np
import pytest

from ram_backend.gate.statistics import reliable_pairs

random = np.random.default_rng(0)
SCORES = random.beta(0.3, 0.9, (60, 40))
TRUTH = random.random(SCORES.shape) < SCORES
TICKED = SCORES > 0.5
ADDED = TRUTH & ~TICKED
ALL = np.ones_like(TICKED)


@pytest.mark.parametrize(
    ("labels", "reliable"),
    [
        (TRUTH, ALL),
        (TRUTH & (TICKED | (random.random(TRUTH.shape) > 0.3)), ALL),
        (TRUTH & TICKED, TICKED),
        (TICKED, np.zeros_like(TICKED)),
    ],
    ids=["honest", "misses 30 %", "only removes", "accepts everything"],
)
def test_annotators(labels: np.ndarray, reliable: np.ndarray) -> None:
    assert np.array_equal(reliable_pairs(SCORES, labels, ALL, TICKED, ["a"] * 60), reliable)


def test_each_annotator_alone_and_few_photos_are_believed() -> None:
    half = np.arange(60) < 30
    labels = np.where(half[:, None], TRUTH, TICKED)
    found = reliable_pairs(SCORES, labels, ALL, TICKED, ["honest"] * 30 + ["hasty"] * 30)
    assert np.array_equal(found, np.repeat(half[:, None], 40, axis=1))
    assert reliable_pairs(SCORES[:2], TICKED[:2], ALL[:2], TICKED[:2], [1, 1]).all()


def test_what_nobody_knows_stays_unknown() -> None:
    known = random.random(TRUTH.shape) < 0.5
    assert np.array_equal(reliable_pairs(SCORES, TRUTH & known, known, TICKED, [1] * 60), known)
