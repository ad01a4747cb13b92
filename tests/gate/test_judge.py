"""The gate: what it lets through, what it refuses, and how it says so.

The projects are made up: images are random features, the truth is linear in them, the bundle knows it in part. The same
simulation on real photos is `benchmarks/gate_simulation.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate import judge as gate
from ram_backend.gate.folds import Split, split
from ram_backend.gate.judge import UNRELATED, Verdict, judge_candidate, refuse_before_fitting
from ram_backend.gate.off_target import OffTargetScores
from ram_backend.gate.statistics import AssociationTest, permutation_test
from ram_backend.gate.training_set import TrainingSet
from ram_backend.training.selection import fit_candidate

TAGS, WIDTH = 20, 24
Array = NDArray[Any]
Labels = NDArray[np.bool_]
Scores = Callable[[Array, Labels], Array]


def project(seed: int, images: int, *, shuffled: bool = False, tags: int = TAGS) -> TrainingSet:
    """Honest corrections, or those of somebody who labelled other images."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, WIDTH))
    truth = features @ random.normal(size=(WIDTH, tags)) / np.sqrt(WIDTH)
    labels = truth + 0.2 * random.normal(size=truth.shape) > 1.2
    base = 1.5 * truth + 2.0 * features @ random.normal(size=(WIDTH, tags)) / np.sqrt(WIDTH) - 2.0
    if shuffled:
        labels = labels[random.permutation(images)]
    log_odds = base.astype(np.float32)
    return TrainingSet(
        tags=tuple(f"tag {number}" for number in range(tags)),
        features=features.astype(np.float32),
        tokens=None,
        base=log_odds,
        incumbent=log_odds,
        labels=labels,
        weights=np.where(labels, 1.0, 0.5).astype(np.float32),
        content=tuple(hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(images)),
        phash=random.integers(0, 2**64, images, dtype=np.uint64),
        ground_truth=np.zeros(images, dtype=np.bool_),
        base_thresholds=np.full(tags, 0.5, dtype=np.float32),
    )


def learned(training_set: TrainingSet, seed: int = 0) -> tuple[Split, Verdict]:
    """A round from corrections to verdict, with the default recipe."""
    parts = split(training_set)
    refusal = refuse_before_fitting(training_set, parts, seed)
    if refusal is not None:
        return parts, refusal
    candidate = fit_candidate(training_set.take(parts.fit), parts.groups[parts.fit], seed=seed)
    side = training_set.take(parts.gate)
    return parts, judge_candidate(training_set, parts, candidate.logits(side.base, side.features), seed=seed)


def scored(seed: int = 0, images: int = 60, tags: int = 8) -> tuple[Array, Labels]:
    random = np.random.default_rng(seed)
    labels = random.random((images, tags)) < 0.2
    return random.normal(size=labels.shape) + labels, labels


def judged(
    incumbent: Array,
    candidate: Array,
    labels: Labels,
    *,
    weights: Array | None = None,
    association: AssociationTest | None = None,
    share: float = 0.4,
    **options: Any,
) -> Verdict:
    """The verdict on a gate of these images; `association` is measured unless given."""
    images, tags = labels.shape
    believed = (np.ones(labels.shape) if weights is None else weights).astype(np.float32)
    training_set = dataclasses.replace(
        project(0, images, tags=tags), incumbent=incumbent, labels=labels, weights=believed
    )
    rows = np.arange(images)
    parts = Split(fit=rows[:0], gate=rows, share=share, groups=rows)
    measured = gate.permutation_test if association is None else lambda *_: association
    with mock.patch.object(gate, "permutation_test", measured):
        return judge_candidate(training_set, parts, candidate, **options)


def test_honest_corrections_are_served() -> None:
    outcomes = [learned(project(seed, 200), seed)[1] for seed in range(6)]
    assert [verdict.outcome for verdict in outcomes].count("accept") >= 5
    served = next(verdict for verdict in outcomes if verdict.accepted)
    assert served.figures["map_change"] > 0
    assert served.figures["change_low"] > 0
    assert served.reason.startswith("The candidate ranks better: weighted mAP 0.")


def test_labels_of_other_images_are_refused_and_the_reason_says_so() -> None:
    outcomes = [learned(project(seed, 200, shuffled=True), seed)[1] for seed in range(6)]
    assert not any(verdict.accepted for verdict in outcomes)
    reasons = [verdict.reason for verdict in outcomes if verdict.outcome == "reject"]
    assert sum(UNRELATED in reason for reason in reasons) >= 5
    assert all("\n" not in reason and reason.endswith(".") for reason in reasons)


def test_shuffled_labels_are_refused_by_the_comparison_too() -> None:
    """Without the test of the relation: what is learned from other images' labels is no better."""
    accepted = []
    for seed in range(10):
        training_set = project(seed, 200, shuffled=True)
        parts = split(training_set)
        candidate = fit_candidate(training_set.take(parts.fit), parts.groups[parts.fit], seed=seed)
        side = training_set.take(parts.gate)
        verdict = judged(
            side.incumbent,
            candidate.logits(side.base, side.features),
            side.labels,
            weights=side.weights,
            association=AssociationTest(0.9, 0.55, 0.001),
            seed=seed,
        )
        assert UNRELATED not in verdict.reason
        accepted.append(verdict.accepted)
    assert sum(accepted) <= 2


def test_few_corrections_need_more_and_the_verdict_says_how_many() -> None:
    parts, verdict = learned(project(0, 25))
    assert verdict.outcome == "needs_data"
    missing = gate.FEWEST_IMAGES - len(parts.gate)
    assert missing > 0
    assert verdict.figures["more_corrections"] >= missing / parts.share
    assert f"about {verdict.figures['more_corrections']:.0f} more corrected images" in verdict.reason


def test_images_without_right_tags_need_more() -> None:
    scores, labels = scored(images=100)
    labels[:, :] = False
    labels[:5, 0] = True
    verdict = judged(scores, scores + labels, labels, share=0.25)
    assert verdict.outcome == "needs_data"
    assert "5 right tags" in verdict.reason
    assert verdict.figures["more_corrections"] == 400  # 5 more, of which 100 images give 5, and a quarter is set aside


def test_tags_that_are_always_right_tell_nothing() -> None:
    scores, labels = scored(tags=2)
    assert judged(scores, scores, np.ones_like(labels)).outcome == "needs_data"


def test_nothing_to_learn_from_is_said_before_fitting() -> None:
    training_set = project(0, 200)
    parts = split(training_set)
    assert refuse_before_fitting(training_set, parts) is None
    labels = training_set.labels.copy()
    labels[parts.fit] = False
    verdict = refuse_before_fitting(dataclasses.replace(training_set, labels=labels), parts)
    assert verdict is not None
    assert verdict.outcome == "needs_data"
    assert "to learn from" in verdict.reason


def test_better_ranking_is_accepted() -> None:
    scores, labels = scored()
    verdict = judged(scores, scores + 1.5 * labels, labels)
    assert verdict.accepted
    assert verdict.figures["probability"] >= gate.ACCEPTED_FROM
    assert "60 images that nothing was fitted on" in verdict.reason


@pytest.mark.parametrize(
    ("incumbent", "candidate", "change", "reason"),
    [
        (lambda scores, labels: scores + 1.5 * labels, lambda scores, _: scores, -1, "doesn't rank better"),
        (lambda scores, _: scores, lambda scores, _: 3 * scores - 2, 0, "ranks exactly as"),
    ],
    ids=["worse ranking", "better calibration alone"],
)
def test_what_ranks_no_better_is_rejected(incumbent: Scores, candidate: Scores, change: int, reason: str) -> None:
    scores, labels = scored()
    verdict = judged(incumbent(scores, labels), candidate(scores, labels), labels)
    assert verdict.outcome == "reject"
    assert np.sign(verdict.figures["map_change"]) == change
    assert reason in verdict.reason


def test_a_hint_of_a_gain_needs_data() -> None:
    scores, labels = scored(images=40)
    random = np.random.default_rng(3)
    hints = [
        judged(scores, scores + gain * labels + 0.4 * random.normal(size=scores.shape), labels)
        for gain in np.linspace(0.2, 0.5, 12)
    ]
    hint = next(verdict for verdict in hints if verdict.outcome == "needs_data")
    assert hint.figures["map_change"] > 0
    assert hint.figures["more_corrections"] >= 1
    assert "can't tell yet" in hint.reason


def test_gain_of_frequent_tags_at_the_cost_of_the_others_is_rejected() -> None:
    random = np.random.default_rng(0)
    rates = np.array([0.5] * 4 + [0.02] * 12)
    labels = random.random((300, 16)) < rates
    scores = random.normal(size=labels.shape) + labels
    harmed = scores.copy()
    harmed[:, :4] += 2 * labels[:, :4]
    harmed[:, 4:] -= 0.7 * labels[:, 4:]
    verdict = judged(scores, harmed, labels)
    assert verdict.figures["probability"] > gate.ACCEPTED_FROM
    assert verdict.figures["macro_change"] < 0
    assert verdict.outcome == "reject"
    assert "the others worse" in verdict.reason


def test_harm_to_tags_outside_is_rejected_however_good_the_ranking() -> None:
    scores, labels = scored()
    before = np.full((50, 30), 0.02)
    better = scores + 1.5 * labels
    assert judged(scores, better, labels, guard=OffTargetScores(before, before, np.full(30, 0.5))).accepted
    verdict = judged(scores, better, labels, guard=OffTargetScores(before, before + 0.02, np.full(30, 0.5)))
    assert verdict.outcome == "reject"
    assert "tags outside the project" in verdict.reason
    assert verdict.figures["guard_move"] == pytest.approx(0.02)
    assert verdict.figures["probability"] >= gate.ACCEPTED_FROM  # the comparison is told as well


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_candidate_is_rejected(value: float) -> None:
    scores, labels = scored()
    broken = scores + 1.5 * labels
    broken[3, 3] = value
    verdict = judged(scores, broken, labels)
    assert verdict.outcome == "reject"
    assert "not finite" in verdict.reason


def test_unrelated_labels_are_refused_however_good_the_ranking() -> None:
    scores, labels = scored()
    relation = AssociationTest(mean_rank=0.503, chance=0.52, p_value=0.4)
    verdict = judged(scores, scores + 1.5 * labels, labels, association=relation)
    assert verdict.outcome == "reject"
    assert UNRELATED in verdict.reason
    assert verdict.figures["p_unrelated"] == 0.4


def test_the_gates_own_images_tell_where_nothing_else_is_known() -> None:
    scores, labels = scored(images=150)
    permuted = labels[np.random.default_rng(0).permutation(150)]
    assert UNRELATED in judged(scores, scores + 1.5 * permuted, permuted).reason


def test_unknown_pairs_play_no_part() -> None:
    scores, labels = scored()
    better = scores + 1.5 * labels
    weights = np.ones(labels.shape)
    weights[:, 4:] = 0
    changed = better.copy()
    changed[:, 4:] = -scores[:, 4:]
    relation = AssociationTest(0.9, 0.5, 0.001)
    one = judged(scores, better, labels, weights=weights, association=relation)
    other = judged(scores, changed, labels, weights=weights, association=relation)
    assert one.figures == other.figures
    assert one.figures["tags"] == 4


@pytest.mark.parametrize("untouched", [0.5, 0.05])
def test_what_the_incumbent_showed_does_not_count_against_it(untouched: float) -> None:
    """A candidate that is as good, while tags that people unticked are all among those that the incumbent showed."""
    accepted = []
    for seed in range(20):
        random = np.random.default_rng([seed, 11])
        labels = random.random((200, 10)) < 0.15
        incumbent, candidate = (labels + random.normal(size=labels.shape) for _ in range(2))
        shown = incumbent >= np.quantile(incumbent, 0.9, axis=0)
        weights = np.where(labels | shown, 1.0, untouched)
        accepted.append(judged(incumbent, candidate, labels, weights=weights, seed=seed).accepted)
    assert sum(accepted) <= 1


def by_heart(training_set: TrainingSet, parts: Split) -> TrainingSet:
    """The training set under a version that has learned the labels of its fitted images by heart."""
    incumbent = training_set.base.copy()
    incumbent[parts.fit] += 6 * training_set.labels[parts.fit]
    return dataclasses.replace(training_set, incumbent=incumbent)


def test_labels_that_a_version_knows_by_heart_are_unrelated_all_the_same() -> None:
    for seed in range(3):
        training_set = project(seed, 200, shuffled=True)
        parts = split(training_set)
        served = by_heart(training_set, parts)
        everything = permutation_test(served.incumbent, served.labels, served.weights, parts.groups, seed)
        assert everything.p_value <= gate.UNRELATED_FROM
        early = refuse_before_fitting(served, parts, seed)
        late = judge_candidate(served, parts, served.base[parts.gate] + 3 * served.labels[parts.gate], seed=seed)
        assert early is not None
        assert UNRELATED in early.reason
        assert UNRELATED in late.reason


def test_honest_labels_under_a_version_are_not_taken_for_unrelated() -> None:
    for seed in range(6):
        training_set = project(seed, 200)
        parts = split(training_set)
        assert refuse_before_fitting(by_heart(training_set, parts), parts, seed) is None


def test_all_images_tell_where_the_bundle_is_served_or_the_gate_has_few_right_tags() -> None:
    training_set = project(0, 200)
    parts = split(training_set)
    verdict = judge_candidate(training_set, parts, training_set.base[parts.gate], seed=1)
    everything = permutation_test(training_set.base, training_set.labels, training_set.weights, parts.groups, 1)
    assert verdict.figures["place"] == everything.mean_rank
    few = by_heart(training_set, parts)
    labels = few.labels.copy()
    right = np.argwhere(labels[parts.gate])
    for row, tag in right[gate.RELATED_POSITIVES - 1 :]:
        labels[parts.gate[row], tag] = False
    few = dataclasses.replace(few, labels=labels)
    verdict = judge_candidate(few, parts, few.base[parts.gate], seed=1)
    everything = permutation_test(few.incumbent, few.labels, few.weights, parts.groups, 1)
    assert verdict.figures["place"] == everything.mean_rank


def test_same_seed_gives_the_same_verdict() -> None:
    scores, labels = scored()
    better = scores + 0.5 * labels
    assert judged(scores, better, labels, seed=3) == judged(scores, better, labels, seed=3)


def test_verdict_survives_json() -> None:
    scores, labels = scored()
    validated = {"residual": {"map": 0.31, "nothing": math.nan}}
    verdict = judged(scores, scores + 1.5 * labels, labels, cross_validated=validated)
    assert verdict.figures["cross_validated.residual.map"] == 0.31
    assert all(math.isfinite(value) for value in verdict.figures.values())
    assert Verdict(**json.loads(json.dumps(dataclasses.asdict(verdict)))) == verdict


def test_shapes_have_to_fit() -> None:
    scores, labels = scored()
    with pytest.raises(InputError, match=r"candidate \(60, 7\) instead of \(60, 8\)"):
        judged(scores, scores[:, :7], labels)
