"""Trainers on drawn corrections: what is learned, what is left alone, and how a candidate is chosen."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import training_sets
from support.versions import delta

from ram_backend.errors import InputError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import calibration_error, mean_average_precision
from ram_backend.models.calibration import sigmoid
from ram_backend.training.selection import Candidate, RecalibrationTrainer, RidgeTrainer, fit_candidate
from ram_backend.worker.training_set import read_folds, write_folds

WIDTH = 24


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
    weights, thresholds = np.where(labels, 1, 0.5).astype(np.float32), np.full(tags, 0.7, dtype=np.float32)
    own = {"weights": weights, "base_thresholds": thresholds, "incumbent_thresholds": thresholds, "calibrated": False}
    return training_sets.training_set(features, base, labels, seed=seed, **own)


UNSEEN = drawn(1500, seed=99)


def quality(log_odds: np.ndarray) -> float:
    return mean_average_precision(log_odds, UNSEEN.labels)


def fitted(training_set: TrainingSet, *trainers: Any, **options: Any) -> Candidate:
    """The candidate of the default trainers, or of these."""
    return fit_candidate(training_set, *([trainers] if trainers else []), **options)


def log_odds(candidate: Candidate, features: np.ndarray | None = None) -> np.ndarray:
    """Of unseen photos."""
    return candidate.delta.log_odds(UNSEEN.base, UNSEEN.features if features is None else features)


def test_more_corrections_teach_more() -> None:
    candidates = [fitted(drawn(images), RidgeTrainer()) for images in (40, 150, 600)]
    reached = [quality(UNSEEN.base), *(quality(log_odds(each)) for each in candidates)]
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] + 0.1


def test_probabilities_are_honest_on_unseen_photos() -> None:
    assert calibration_error(sigmoid(UNSEEN.base.astype(np.float64)), UNSEEN.labels) > 0.2
    assert calibration_error(sigmoid(log_odds(fitted(drawn(300))).astype(np.float64)), UNSEEN.labels) < 0.06


def test_cross_fitted_edits_are_those_of_unseen_photos() -> None:
    training_set = drawn(300)
    candidate = fitted(training_set)
    figures = candidate.cross_validated
    assert figures["ridge"]["edits"] < figures["recalibration"]["edits"]
    unseen = UNSEEN.edits(log_odds(candidate), UNSEEN.thresholds).mean()
    assert figures[candidate.trainer]["edits"] == pytest.approx(unseen, rel=0.15)
    assert candidate.evaluated.all()


def test_features_that_say_nothing_do_no_harm() -> None:
    for seed in range(3):
        training_set = drawn(150, seed=seed)
        random = np.random.default_rng(seed + 500)
        blind = replace(training_set, features=random.normal(size=training_set.features.shape).astype(np.float32))
        noise = random.normal(size=UNSEEN.features.shape).astype(np.float32)
        found = log_odds(fitted(blind), noise)
        assert quality(found) > quality(UNSEEN.base) - 0.02


def test_the_same_corrections_give_the_same_candidate() -> None:
    first, second = (fitted(drawn(80), seed=5) for _ in range(2))
    assert first.params == second.params
    for name, tensor in first.delta.to_tensors().items():
        assert tensor.tobytes() == second.delta.to_tensors()[name].tobytes()


def test_a_tag_that_nobody_spoke_of_stays_the_bundles() -> None:
    training_set = drawn(100)
    weights = training_set.weights.copy()
    weights[:, 2] = 0
    candidate = fitted(replace(training_set, weights=weights))
    assert candidate.delta.tags == training_set.tags
    found = log_odds(candidate)
    assert np.array_equal(found[:, 2], UNSEEN.base[:, 2])
    assert candidate.delta.thresholds[2] == np.float32(0.7)
    assert not np.array_equal(found[:, 1], UNSEEN.base[:, 1])


def test_a_tag_without_positives_keeps_its_order_and_is_shown_less() -> None:
    training_set = drawn(100)
    labels = training_set.labels.copy()
    labels[:, 2] = False
    found = log_odds(fitted(replace(training_set, labels=labels)))[:, 2]
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(UNSEEN.base[:, 2], kind="stable"))
    assert sigmoid(found.astype(np.float64)).mean() < sigmoid(UNSEEN.base[:, 2].astype(np.float64)).mean() / 3


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("tags", [1, 3])
@pytest.mark.parametrize("labels", ["drawn", "none", "all"])
def test_tiny_material(images: int, tags: int, labels: str) -> None:
    training_set = drawn(images, tags=tags, rate=0)
    if labels != "drawn":
        training_set = replace(training_set, labels=np.full_like(training_set.labels, labels == "all"))
    candidate = fitted(training_set)
    found = candidate.delta.log_odds(training_set.base, training_set.features)
    assert np.isfinite(found).all()
    moved = candidate.delta.log_odds(UNSEEN.base[:, :tags], UNSEEN.features) - UNSEEN.base[:, :tags]
    assert np.abs(moved).mean() < 3, "a handful of corrections turns nothing upside down"


def test_new_tags_are_lent_what_the_bundle_does_not_know_yet() -> None:
    """Each pair of like meaning follows two features, of which the bundle sees the first; one of a pair is new."""
    random = np.random.default_rng(0)
    training_set = drawn(400)
    pairs = np.arange(3).repeat(2)
    known, missed = 2 * training_set.features[:, 2 * pairs], 2 * training_set.features[:, 2 * pairs + 1]
    weights = np.ones((400, 6), dtype=np.float32)
    weights[8:, 1::2] = 0
    embeddings = np.eye(3)[pairs] + 0.1 * np.eye(6)[:, :3]
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    labels = random.random((400, 6)) < sigmoid((known + missed - 2).astype(np.float64))
    own = {"labels": labels, "weights": weights, "base": known, "incumbent": known, "embeddings": embeddings}
    candidate = fitted(replace(training_set, **own), RidgeTrainer())
    assert candidate.params["sharing"]
    for pair in range(3):
        seen, unseen = candidate.delta.weight[2 * pair + 1, [2 * pair, 2 * pair + 1]]
        assert abs(seen) < 0.6 * unseen


def test_recalibration_moves_offsets_alone_and_only_where_the_evidence_is_clear() -> None:
    training_set = drawn(60)
    base = np.log(np.full(training_set.base.shape, 0.25) / 0.75).astype(np.float32)
    labels = np.random.default_rng(1).random(base.shape) < 0.25
    labels[:, 0] = True
    delta = fitted(replace(training_set, base=base, labels=labels, calibrated=True), RecalibrationTrainer()).delta
    assert (delta.base_scale == 1).all()
    assert not delta.weight.any()
    assert delta.bias[0] > 1
    assert np.count_nonzero(delta.bias[1:]) <= 2
    assert (delta.thresholds == 0.5).all()


def test_a_bundle_without_calibration_is_calibrated_around_its_thresholds() -> None:
    training_set = drawn(400, knowledge=1)
    for trainer in (RecalibrationTrainer(), RidgeTrainer()):
        candidate = fitted(training_set, trainer)
        assert calibration_error(sigmoid(log_odds(candidate).astype(np.float64)), UNSEEN.labels) < 0.1
        edits = UNSEEN.edits(log_odds(candidate), UNSEEN.thresholds).mean()
        assert edits < UNSEEN.edits(UNSEEN.base, UNSEEN.base_thresholds).mean()


def test_folds_come_back_from_a_versions_file() -> None:
    training_set = drawn(60)
    candidate = fitted(training_set)
    files = write_folds(candidate.folds, training_set.content)
    folds, seen = read_folds(files, training_set.tags, (*training_set.content[:3], "ff" * 8))
    assert seen.tolist() == [True, True, True, False]
    assert set(folds) == set(range(5))
    rows = training_set.folds == 2
    out_of_fold = folds[2].log_odds(training_set.base[rows], training_set.features[rows])
    assert np.array_equal(out_of_fold, candidate.log_odds[rows])
    assert read_folds({}, training_set.tags, training_set.content)[0] == {}


@dataclass(frozen=True)
class Fixed:
    """A trainer with fixed scores."""

    name: str
    log_odds: np.ndarray
    evaluated: np.ndarray

    def fit(self, training_set: TrainingSet, *_: Any) -> Candidate:
        own = {"log_odds": self.log_odds, "evaluated": self.evaluated, "files": {"head": b"tuned"}}
        return Candidate(delta(tags=training_set.tags, width=WIDTH), {"by": self.name}, **own)


SILENT = SimpleNamespace(name="silent", fit=lambda *_: None)
EVERYWHERE = np.ones(60, dtype=np.bool_)


def test_the_trainer_with_the_fewest_edits_wins_and_brings_its_files() -> None:
    training_set = drawn(60)
    truth = np.where(training_set.labels, 5, -5).astype(np.float32)
    candidate = fitted(training_set, Fixed("poor", -truth, EVERYWHERE), SILENT, Fixed("good", truth, EVERYWHERE))
    assert (candidate.trainer, candidate.files, candidate.params) == ("good", {"head": b"tuned"}, {"by": "good"})
    assert set(candidate.cross_validated) == {"poor", "good"}
    assert candidate.cross_validated["good"]["edits"] == 0
    assert candidate.folds == {}


def test_a_difference_within_its_error_goes_to_the_simpler_trainer() -> None:
    training_set = drawn(60)
    slightly = training_set.base.copy()
    slightly[0] = np.where(training_set.labels[0], 5, -5)
    trainers = [Fixed("simple", training_set.base, EVERYWHERE), Fixed("costly", slightly, EVERYWHERE)]
    assert fitted(training_set, *trainers).trainer == "simple"


def test_trainers_are_compared_on_images_that_none_was_fitted_on() -> None:
    training_set = drawn(60)
    truth = np.where(training_set.labels, 5, -5).astype(np.float32)
    first, second = (np.arange(60) < limit for limit in (40, 30))
    lucky = truth.copy()
    lucky[second] = -truth[second]  # right only where the other was fitted
    trainers = [Fixed("even", training_set.base, second), Fixed("lucky", lucky, first)]
    assert fitted(training_set, *trainers).trainer == "even"


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="features that are not finite"):
        replace(drawn(4), features=np.full((4, WIDTH), np.nan, dtype=np.float32))
