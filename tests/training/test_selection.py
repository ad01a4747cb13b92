"""Recipes on drawn corrections: what is learned, what is left alone, and how a candidate is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ram_backend.errors import InputError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import calibration_error, mean_average_precision
from ram_backend.models.calibration import sigmoid
from ram_backend.models.delta import Delta
from ram_backend.training.selection import FitResult, fit_candidate

WIDTH = 24
EACH = np.arange  # every image is a group of its own


def drawn(images: int, tags: int = 6, seed: int = 0, knowledge: float = 0.5, rate: float = -2.0) -> TrainingSet:
    """Photos whose tags follow from their features; the bundle knows about half of that, and is too sure of itself."""
    world = np.random.default_rng(1000)
    directions = world.normal(size=(tags, WIDTH)) / np.sqrt(WIDTH) * 3
    shown = world.normal(size=tags) * 0.3 + rate
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, WIDTH)).astype(np.float32)
    truth = features @ directions.T
    labels = random.random((images, tags)) < sigmoid(truth + shown)
    base = (2 * (knowledge * truth + random.normal(size=truth.shape)) + 1).astype(np.float32)
    return TrainingSet(
        tags=tuple(f"tag {number}" for number in range(tags)),
        features=features,
        tokens=None,
        base=base,
        incumbent=base,
        labels=labels,
        weights=np.where(labels, 1, 0.5).astype(np.float32),
        content=tuple(f"{seed}-{number}" for number in range(images)),
        phash=random.integers(0, 2**63, size=images).astype(np.uint64),
        ground_truth=np.zeros(images, dtype=np.bool_),
        base_thresholds=np.full(tags, 0.7, dtype=np.float32),
    )


UNSEEN = drawn(1500, seed=99)


def quality(log_odds: np.ndarray) -> float:
    return mean_average_precision(log_odds, UNSEEN.labels)


def served(training_set: TrainingSet, groups: np.ndarray | None = None) -> np.ndarray:
    """What the candidate says about unseen photos."""
    candidate = fit_candidate(training_set, EACH(len(training_set)) if groups is None else groups)
    return candidate.logits(UNSEEN.base, UNSEEN.features)


def test_more_corrections_teach_more() -> None:
    reached = [quality(UNSEEN.base), *(quality(served(drawn(images))) for images in (40, 150, 600))]
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] + 0.1


def test_probabilities_are_honest_on_unseen_photos() -> None:
    assert calibration_error(sigmoid(UNSEEN.base.astype(np.float64)), UNSEEN.labels) > 0.2
    assert calibration_error(sigmoid(served(drawn(300)).astype(np.float64)), UNSEEN.labels) < 0.06


def test_what_is_cross_validated_is_what_unseen_photos_show() -> None:
    training_set = drawn(300)
    candidate = fit_candidate(training_set, EACH(300))
    figures = candidate.cross_validated["residual"]
    assert figures["mAP"] == pytest.approx(quality(candidate.logits(UNSEEN.base, UNSEEN.features)), abs=0.05)
    assert figures["base_mAP"] == figures["incumbent_mAP"]
    assert figures["mAP"] > figures["base_mAP"]


def test_features_that_say_nothing_do_no_harm() -> None:
    for seed in range(3):
        training_set = drawn(150, seed=seed)
        random = np.random.default_rng(seed + 500)
        blind = replace(training_set, features=random.normal(size=training_set.features.shape).astype(np.float32))
        candidate = fit_candidate(blind, EACH(150))
        found = candidate.logits(UNSEEN.base, random.normal(size=UNSEEN.features.shape).astype(np.float32))
        assert quality(found) > quality(UNSEEN.base) - 0.02


def test_the_same_corrections_give_the_same_candidate() -> None:
    first, second = (fit_candidate(drawn(80), EACH(80), seed=5) for _ in range(2))
    assert first.params == second.params
    for name, tensor in first.delta.to_tensors().items():
        assert tensor.tobytes() == second.delta.to_tensors()[name].tobytes()


def test_a_tag_that_nobody_spoke_of_stays_the_bundles() -> None:
    training_set = drawn(100)
    weights = training_set.weights.copy()
    weights[:, 2] = 0
    candidate = fit_candidate(replace(training_set, weights=weights), EACH(100))
    assert candidate.delta.tags == training_set.tags
    found = candidate.logits(UNSEEN.base, UNSEEN.features)
    assert np.array_equal(found[:, 2], UNSEEN.base[:, 2])
    assert candidate.delta.thresholds[2] == np.float32(0.7)
    assert not np.array_equal(found[:, 1], UNSEEN.base[:, 1])


def test_a_tag_without_positives_keeps_its_order_and_is_shown_less() -> None:
    training_set = drawn(100)
    labels = training_set.labels.copy()
    labels[:, 2] = False
    found = served(replace(training_set, labels=labels))[:, 2]
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(UNSEEN.base[:, 2], kind="stable"))
    assert sigmoid(found.astype(np.float64)).mean() < sigmoid(UNSEEN.base[:, 2].astype(np.float64)).mean() / 3


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("tags", [1, 3])
@pytest.mark.parametrize("labels", ["drawn", "none", "all"])
def test_tiny_material(images: int, tags: int, labels: str) -> None:
    training_set = drawn(images, tags=tags, rate=0)
    if labels != "drawn":
        training_set = replace(training_set, labels=np.full_like(training_set.labels, labels == "all"))
    candidate = fit_candidate(training_set, EACH(images))
    found = candidate.logits(training_set.base, training_set.features)
    assert np.isfinite(found).all()
    moved = candidate.logits(UNSEEN.base[:, :tags], UNSEEN.features) - UNSEEN.base[:, :tags]
    assert np.abs(moved).mean() < 3, "a handful of corrections turns nothing upside down"
    if labels != "drawn":
        assert np.array_equal(found, training_set.base), "equal labels say nothing about what to tell apart"


def test_look_alikes_are_no_evidence_for_each_other() -> None:
    single = drawn(40, knowledge=0.0, seed=4)
    burst = single.take(np.repeat(EACH(40), 5))  # each photo five times
    noise = np.random.default_rng(0).normal(size=burst.features.shape) * 0.01
    drawn_labels = np.random.default_rng(1).random(single.labels.shape) < 0.3
    burst = replace(
        burst, features=(burst.features + noise).astype(np.float32), labels=np.repeat(drawn_labels, 5, axis=0)
    )
    told, untold = (
        fit_candidate(burst, groups).cross_validated["residual"]["mAP"] for groups in (EACH(200) // 5, EACH(200))
    )
    assert told < 0.5, "drawn labels can't be known"
    assert untold > told + 0.25, "a photo's twin tells its labels"


def test_new_tags_learn_from_tags_of_like_meaning() -> None:
    """Pairs of tags that mean the same: one that everybody was asked about, and one that hardly anybody was."""
    meanings = np.eye(3).repeat(2, axis=0) + 0.1 * np.eye(6)[:, :3]
    embeddings = (meanings / np.linalg.norm(meanings, axis=1, keepdims=True)).astype(np.float32)
    twins, new = [0, 0, 2, 2, 4, 4], [1, 3, 5]
    gains = []
    for seed in range(4):
        training_set = drawn(200, seed=seed)
        base = np.random.default_rng(seed).normal(size=(200, 6)).astype(np.float32)
        weights = np.ones((200, 6), dtype=np.float32)
        weights[12:, new] = 0
        training_set = replace(
            training_set, labels=training_set.labels[:, twins], weights=weights, base=base, incumbent=base
        )
        nothing = np.zeros((1500, 6), dtype=np.float32)
        reached = []
        for texts in (None, embeddings):
            candidate = fit_candidate(replace(training_set, embeddings=texts), EACH(200))
            assert candidate.params["sharing"] == (texts is not None)
            found = candidate.logits(nothing, UNSEEN.features)[:, new]
            reached.append(mean_average_precision(found, UNSEEN.labels[:, twins][:, new]))
        gains.append(reached[1] - reached[0])
    assert min(gains) > 0.05


def test_new_tags_are_lent_what_the_bundle_does_not_know_yet() -> None:
    """Each pair of tags follows two features, of which the bundle sees the first; the second of a pair is new."""
    random = np.random.default_rng(0)
    training_set = drawn(400)
    pairs = np.arange(3).repeat(2)
    known, missed = 2 * training_set.features[:, 2 * pairs], 2 * training_set.features[:, 2 * pairs + 1]
    weights = np.ones((400, 6), dtype=np.float32)
    weights[8:, 1::2] = 0
    embeddings = np.eye(3)[pairs] + 0.1 * np.eye(6)[:, :3]
    candidate = fit_candidate(
        replace(
            training_set,
            labels=random.random((400, 6)) < sigmoid((known + missed - 2).astype(np.float64)),
            weights=weights,
            base=known,
            incumbent=known,
            embeddings=(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32),
        ),
        EACH(400),
    )
    assert candidate.params["sharing"]
    for pair in range(3):
        seen, unseen = candidate.delta.weight[2 * pair + 1, [2 * pair, 2 * pair + 1]]
        assert abs(seen) < 0.6 * unseen


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    fit_candidate(drawn(30), EACH(30), progress=lambda *news: told.append(news))
    assert {stage for stage, _, _ in told} == {"residual"}
    steps = [step for _, step, _ in told]
    assert steps == sorted(steps)
    assert steps[-1] == told[-1][2]


@dataclass(frozen=True)
class Fixed:
    """A recipe that says what it is told to say."""

    name: str
    log_odds: np.ndarray
    judged: np.ndarray

    def fit(self, training_set: TrainingSet, *_: Any) -> FitResult:
        count, width = len(training_set.tags), training_set.features.shape[1]
        unchanged = np.ones(count, np.float32), np.zeros((count, width), np.float32), np.zeros(count, np.float32)
        delta = Delta(training_set.tags, *unchanged, training_set.base_thresholds)
        return FitResult(delta, self.log_odds, self.judged, {"by": self.name}, {"head": b"tuned"})


class Silent:
    name = "silent"

    def fit(self, *_: Any) -> None:
        return None


def test_the_best_recipe_wins_and_brings_its_files() -> None:
    training_set, everywhere = drawn(60), np.ones(60, dtype=np.bool_)
    truth = np.where(training_set.labels, 5, -5).astype(np.float32)
    recipes = [Fixed("poor", -truth, everywhere), Silent(), Fixed("good", truth, everywhere)]
    candidate = fit_candidate(training_set, EACH(60), recipes)
    assert candidate.recipe == "good"
    assert candidate.files == {"head": b"tuned"}
    assert candidate.params == {"by": "good"}
    assert set(candidate.cross_validated) == {"poor", "good"}
    assert candidate.cross_validated["good"]["mAP"] == 1


def test_a_tie_goes_to_the_simpler_recipe() -> None:
    training_set, everywhere = drawn(60), np.ones(60, dtype=np.bool_)
    recipes = [Fixed(name, training_set.base, everywhere) for name in ("simple", "costly")]
    assert fit_candidate(training_set, EACH(60), recipes).recipe == "simple"


def test_recipes_are_compared_on_images_that_none_was_fitted_on() -> None:
    training_set = drawn(60)
    truth = np.where(training_set.labels, 5, -5).astype(np.float32)
    first, second = (EACH(60) < limit for limit in (40, 30))
    lucky = truth.copy()
    lucky[second] = -truth[second]  # right only where the other was fitted
    recipes = [Fixed("even", training_set.base, second), Fixed("lucky", lucky, first)]
    assert fit_candidate(training_set, EACH(60), recipes).recipe == "even"


def test_nothing_to_learn_from_is_refused() -> None:
    training_set = drawn(10)
    with pytest.raises(InputError, match="0 images"):
        fit_candidate(training_set.take([]), EACH(0))
    with pytest.raises(InputError, match="silent"):
        fit_candidate(training_set, EACH(10), [Silent()])
    halves = [EACH(10) < 5, EACH(10) >= 5]
    recipes = [Fixed(f"half {place}", training_set.base, half) for place, half in enumerate(halves)]
    with pytest.raises(InputError, match="no images in common"):
        fit_candidate(training_set, EACH(10), recipes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": np.zeros((3, 2), dtype=np.float32)}, "base"),
        ({"weights": np.full((4, 6), 2, dtype=np.float32)}, r"outside \[0, 1\]"),
        ({"features": np.full((4, WIDTH), np.nan, dtype=np.float32)}, "features that are not finite"),
        ({"tags": ("a",) * 6}, "twice"),
        ({"content": ("a",)}, "hashes"),
        ({"embeddings": np.zeros((5, 3), dtype=np.float32)}, "embeddings"),
    ],
)
def test_material_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(drawn(4), **changes)


def test_material_of_some_images() -> None:
    training_set = drawn(6)
    some = training_set.take(np.array([False, True, False, True, False, False]))
    assert some.content == ("0-1", "0-3")
    assert np.array_equal(some.labels, training_set.labels[[1, 3]])
    assert some.incumbent is some.base, "what is served is the bundle: still one array"
    assert training_set.take([3, 1]).content == ("0-3", "0-1")
    assert len(training_set.take([])) == 0
