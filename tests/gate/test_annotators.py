"""Which pairs are evidence: all of honest annotators, some of those who only remove, none of those who accept all."""

from dataclasses import replace

import numpy as np
import pytest
from support.training_sets import training_set

from ram_backend.gate.judge import judge_candidate
from ram_backend.gate.statistics import filter_annotators
from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.calibration import sigmoid
from ram_backend.training.selection import fit_candidate

random = np.random.default_rng(0)
SCORES = random.beta(0.3, 0.9, (60, 40))
TRUTH = random.random(SCORES.shape) < SCORES
TICKED = SCORES > 0.5
ALL = np.ones_like(TICKED)
NONE = np.zeros_like(TICKED)


@pytest.mark.parametrize(
    ("labels", "nothing", "imputed"),
    [
        (TRUTH, NONE, NONE),
        (TRUTH & (TICKED | (random.random(TRUTH.shape) > 0.3)), NONE, NONE),
        (TRUTH & TICKED, NONE, ~TICKED),
        (TICKED, ALL, NONE),
    ],
    ids=["honest", "misses 30 %", "only removes", "accepts everything"],
)
def test_annotators(labels: np.ndarray, nothing: np.ndarray, imputed: np.ndarray) -> None:
    found = filter_annotators(SCORES, labels, ALL, TICKED, ["a"] * 60)
    assert np.array_equal(found, (nothing, imputed))


def test_each_annotator_alone_and_few_photos_are_believed() -> None:
    half = np.arange(60) < 30
    labels = np.where(half[:, None], TRUTH, TICKED)
    nothing, imputed = filter_annotators(SCORES, labels, ALL, TICKED, ["honest"] * 30 + ["hasty"] * 30)
    assert np.array_equal(nothing, np.repeat(~half[:, None], 40, axis=1))
    assert not imputed.any()
    assert not np.any(filter_annotators(SCORES[:2], TICKED[:2], ALL[:2], TICKED[:2], [1, 1]))


def test_what_nobody_knows_stays_unknown() -> None:
    known = random.random(TRUTH.shape) < 0.5
    assert not np.any(filter_annotators(SCORES, TRUTH & known, known, TICKED, [1] * 60))


def photos(seed: int, count: int) -> TrainingSet:
    """Photos with labels drawn from their scores; the first tag is often wrong, as their features show."""
    drawn = np.random.default_rng(seed)
    features = drawn.normal(size=(count, 24)).astype(np.float32)
    base = (2 * features @ np.random.default_rng(7).normal(size=(24, 8)) / 24**0.5 + 1).astype(np.float32)
    labels = drawn.random(base.shape) < sigmoid(base)
    labels[:, 0] &= features[:, 0] < -0.3
    return training_set(features, base, labels, seed=seed)


def test_what_an_annotator_who_only_removes_one_tag_teaches_is_no_loss() -> None:
    """With the tags that stayed off left out, versions with a fifth more edits were accepted."""
    accepted = 0
    for seed in range(3):
        given, new = photos(seed, 150), photos(seed + 100, 400)
        ticked = sigmoid(given.base) > 0.5
        some = replace(given, labels=ticked & (given.labels | (np.arange(8) > 0))).with_filtered_annotators(
            ticked, ["a"] * 150
        )
        (note,) = some.notes
        assert "add hardly any tag" in note
        candidate = fit_candidate(some)
        if judge_candidate(some, candidate.log_odds, evaluated=candidate.evaluated).accepted:
            accepted += 1
            log_odds = candidate.delta.log_odds(new.base, new.features)
            assert new.edits(log_odds, new.thresholds).mean() < new.edits(new.base, new.thresholds).mean()
            added = (log_odds > 0) & (new.base <= 0) & ~new.labels
            assert added[:, 0].mean() < 0.01
    assert accepted


def test_an_annotator_who_accepts_everything_is_named() -> None:
    given = photos(0, 60)
    ticked = sigmoid(given.base) > 0.5
    some = replace(given, labels=ticked).with_filtered_annotators(ticked, ["a"] * 60)
    assert some.notes == ("Annotators of 60 photos accept all that is ticked: these photos say nothing.",)
    assert given.with_filtered_annotators(ticked, ["a"] * 60).notes == ()
