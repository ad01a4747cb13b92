"""The gate: what it lets through, what it refuses, and how it says so.

The same simulation on real photos is `benchmarks/gate_simulation.py`.
"""

import dataclasses
import hashlib
import json
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import training_sets

from ram_backend.gate import judge as gate
from ram_backend.gate.judge import UNRELATED, Verdict, judge_candidate, measure_shift, refuse_before_fitting
from ram_backend.gate.training_set import TrainingSet
from ram_backend.training.selection import fit_candidate

project = partial(training_sets.simulated, tags=20, level=1.2)
Array = NDArray[Any]
Labels = NDArray[np.bool_]


def learned(training_set: TrainingSet, seed: int = 0) -> Verdict:
    """A round from corrections to verdict, with the default trainers."""
    refusal = refuse_before_fitting(training_set, seed)
    if refusal is not None:
        return refusal
    candidate = fit_candidate(training_set, seed=seed)
    return judge_candidate(training_set, candidate.log_odds, evaluated=candidate.evaluated, seed=seed)


def scored(seed: int = 0, images: int = 60, tags: int = 8) -> tuple[Array, Labels]:
    random = np.random.default_rng(seed)
    labels = random.random((images, tags)) < 0.2
    return 3 * random.normal(size=labels.shape) + 3 * labels - 2, labels


def given(incumbent: Array, labels: Labels, **changes: Any) -> TrainingSet:
    """These labels, all of them believed, and what is served."""
    images, tags = labels.shape
    own = {"incumbent": incumbent, "labels": labels, "weights": np.ones(labels.shape, dtype=np.float32), **changes}
    return dataclasses.replace(project(0, images, tags=tags), **own)


def judged(incumbent: Array, candidate: Array, labels: Labels, **options: Any) -> Verdict:
    """The verdict on these images."""
    return judge_candidate(given(incumbent, labels), candidate, **options)


def test_honest_corrections_are_served_and_the_reason_speaks_of_edits() -> None:
    outcomes = [learned(project(seed, 200), seed) for seed in range(2)]
    assert all(verdict.accepted for verdict in outcomes)
    figures = outcomes[0].figures
    before, after = (f"{figures[f'edits_{name}']:.2f}" for name in ("incumbent", "candidate"))
    change, low, high = (f"{100 * figures[name]:+.0f}" for name in ("edits_change", "change_low", "change_high"))
    assert outcomes[0].reason == (
        f"Fewer edits: {before} -> {after} edits per photo ({change} %, 95 % interval {low} to {high} %, judged on 200"
        " photos)."
    )


def test_labels_of_other_images_are_refused_before_anything_is_fitted() -> None:
    for seed in range(6):
        training_set = project(seed, 200, shuffled=True)
        verdict = refuse_before_fitting(training_set, seed)
        assert verdict.outcome == "reject"
        assert UNRELATED in verdict.reason
        assert verdict.figures["p_unrelated"] > gate.UNRELATED_FROM


def test_few_corrections_need_more_and_the_verdict_says_how_many() -> None:
    verdict = refuse_before_fitting(project(0, 12))
    assert verdict.outcome == "needs_data"
    assert verdict.figures["more_corrections"] >= gate.FEWEST_IMAGES - 12
    assert f"{verdict.figures['more_corrections']:.0f} more corrected images" in verdict.reason


def test_images_without_right_tags_and_tags_that_are_always_right_need_more() -> None:
    training_set = project(0, 100)
    labels = np.zeros_like(training_set.labels)
    labels[:5, 0] = True
    verdict = refuse_before_fitting(dataclasses.replace(training_set, labels=labels))
    assert "5 right tags" in verdict.reason
    assert verdict.figures["more_corrections"] == 100  # 5 more, of which 100 images give 5
    always = refuse_before_fitting(dataclasses.replace(training_set, labels=np.ones_like(labels)))
    assert always.outcome == "needs_data"
    assert "no tag is right on some images and wrong on others" in always.reason


def test_photos_that_are_no_evidence_are_not_counted() -> None:
    training_set = project(0, 100)
    weights = training_set.weights.copy()
    weights[15:] = 0
    assert "15 images" in refuse_before_fitting(dataclasses.replace(training_set, weights=weights)).reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda scores, labels: scores + 2 * labels, "Fewer edits"),
        (lambda scores, labels: scores, "Nothing left to win: at most 0 % fewer edits expected"),
        (lambda scores, labels: scores - 2 * labels, "No fewer edits can be shown"),
    ],
    ids=["better", "equal", "worse"],
)
def test_fewer_edits_alone_are_accepted(change: Any, reason: str) -> None:
    scores, labels = scored(images=200)
    verdict = judged(scores, change(scores, labels), labels)
    assert verdict.reason.startswith(reason)
    assert verdict.accepted == (reason == "Fewer edits")


def test_a_hint_of_a_gain_needs_data() -> None:
    scores, labels = scored(images=40)
    random = np.random.default_rng(3)
    hints = [
        judged(scores, scores + gain * labels + 0.6 * random.normal(size=scores.shape), labels)
        for gain in np.linspace(0.3, 1, 12)
    ]
    hint = next(verdict for verdict in hints if verdict.outcome == "needs_data")
    assert hint.figures["edits_change"] < 0
    assert f"{hint.figures['more_corrections']:.0f} more corrected image" in hint.reason
    assert "not certain yet" in hint.reason


def test_the_verdict_counts_wrong_ticks_that_vanish_and_right_ones_that_are_new() -> None:
    scores, labels = scored(images=200)
    candidate = scores.copy()
    candidate[:, 2], candidate[:, 5] = -9, 9  # never ticked, always ticked
    figures = judged(scores, candidate, labels).figures
    assert figures["vanished.tag 2"] == ((scores[:, 2] > 0) & ~labels[:, 2]).sum()
    assert figures["found.tag 5"] == ((scores[:, 5] <= 0) & labels[:, 5]).sum()
    assert {name for name in figures if name.startswith(("vanished.", "found."))} == {"vanished.tag 2", "found.tag 5"}


def test_photos_that_no_score_chose_are_reported_alone() -> None:
    scores, labels = scored(images=200)
    at_random = np.arange(200) % 5 == 0
    candidate = scores.copy()
    candidate[at_random] = np.where(labels, 9, -9)[at_random]
    figures = judged(scores, candidate, labels, at_random=at_random).figures
    assert figures["random.images"] == 40
    assert figures["random.incumbent"] == pytest.approx(((scores > 0) != labels)[at_random].sum(axis=1).mean())
    assert figures["random.candidate"] == 0 < figures["edits_candidate"]
    assert figures["random.calibration_error"] < 0.001
    assert not [name for name in judged(scores, candidate, labels).figures if name.startswith("random.")]


def test_an_added_tag_counts_by_its_cost() -> None:
    scores, labels = scored(images=200)
    for cost, accepted in ((1, False), (6, True)):
        costly = given(scores, labels, add_costs=np.full(8, cost, dtype=np.float32))
        assert judge_candidate(costly, scores).accepted == accepted


def test_fixed_thresholds_and_a_limit_of_ticks_are_judged_as_they_tick() -> None:
    scores, labels = scored(images=200)
    better = scores + 2 * labels
    never = np.full(8, 0.99999, dtype=np.float32)
    verdict = judge_candidate(given(scores, labels, fixed_thresholds=never, incumbent_thresholds=never), better)
    assert verdict.figures["edits_candidate"] == verdict.figures["edits_incumbent"] == labels.sum(axis=1).mean()
    own = given(scores, labels, fixed_thresholds=np.full(8, np.nan, dtype=np.float32))
    assert own.thresholds.tolist() == given(scores, labels).thresholds.tolist()
    ticked = np.zeros_like(labels)
    ticked[np.arange(200), better.argmax(axis=1)] = better.max(axis=1) > 0
    expected = (ticked != labels).sum(axis=1).mean()
    verdict = judge_candidate(given(scores, labels, most_ticked=1), better)
    assert verdict.figures["edits_candidate"] == pytest.approx(expected)


def test_fewer_edits_at_the_cost_of_the_ranking_are_rejected() -> None:
    random = np.random.default_rng(0)
    labels = random.random((300, 16)) < 0.3
    scores = random.normal(size=labels.shape) + labels + 2  # ranked well, all ticked
    silent = -3 + 0.01 * random.normal(size=labels.shape)
    verdict = judged(scores, silent, labels)
    assert verdict.outcome == "reject"
    assert "the ranking is worse" in verdict.reason


def test_harm_to_tags_outside_is_rejected_however_few_the_edits() -> None:
    scores, labels = scored()
    before = np.full((50, 30), 0.02)
    better = scores + 3 * labels
    assert judged(scores, better, labels, shift=measure_shift(before, before, np.full(30, 0.5))).accepted
    verdict = judged(scores, better, labels, shift=measure_shift(before, before + 0.02, np.full(30, 0.5)))
    assert verdict.outcome == "reject"
    assert "tags outside the project" in verdict.reason
    assert verdict.figures["guard_move"] == pytest.approx(0.02)
    assert verdict.figures["edits_change"] < 0  # the comparison is reported as well


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_candidate_is_rejected(value: float) -> None:
    scores, labels = scored()
    broken = scores + 3 * labels
    broken[3, 3] = value
    verdict = judged(scores, broken, labels)
    assert verdict.outcome == "reject"
    assert "not finite" in verdict.reason


def test_unknown_pairs_and_rows_that_are_not_judged_play_no_part() -> None:
    scores, labels = scored()
    better = scores + 3 * labels
    weights, judged_rows = np.ones(labels.shape, dtype=np.float32), np.arange(60) < 40
    weights[:, 4:] = 0
    training_set = given(scores, labels, weights=weights)
    changed = better.copy()
    changed[:, 4:] = -scores[:, 4:]
    changed[40:] = -scores[40:]
    one, other = (judge_candidate(training_set, each, evaluated=judged_rows) for each in (better, changed))
    assert one == other
    assert one.figures["images"] == 40


def test_bursts_of_near_duplicates_win_nothing() -> None:
    """Labels drawn from the bundle's own probabilities, five copies of each photo: folds have to see them as one."""
    served = []
    for seed in range(8):
        random = np.random.default_rng([seed, 5])
        single, rows = project(seed, 40), np.repeat(np.arange(40), 5)
        labels = random.random(single.labels.shape) < 1 / (1 + np.exp(-single.base.astype(np.float64)))
        content = tuple(hashlib.sha256(f"{seed} {row}".encode()).hexdigest() for row in range(200))
        burst = dataclasses.replace(single.take(rows), labels=labels[rows], content=content, groups=rows)
        served.append(learned(burst, seed).accepted)
    assert sum(served) <= 1


def test_verdict_survives_json() -> None:
    scores, labels = scored()
    validated = {"ridge": {"edits": 1.31, "nothing": math.nan}}
    verdict = judged(scores, scores + 3 * labels, labels, cross_validated=validated)
    assert verdict.figures["cross_validated.ridge.edits"] == 1.31
    assert all(math.isfinite(value) for value in verdict.figures.values())
    assert Verdict(**json.loads(json.dumps(dataclasses.asdict(verdict)))) == verdict
