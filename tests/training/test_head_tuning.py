"""Fine-tuning of the head: what it learns, what it leaves alone, when it stops."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from models import reference, tiny
from support import training_sets

from ram_backend.errors import NotAvailable, SettingsError, VersionDamaged
from ram_backend.gate.judge import measure_shift
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import HEAD_FILE, LOW_RANK_FILE, head_file, load_network, tuned_network
from ram_backend.tagging.subset import Subset, resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.training import head_tuning
from ram_backend.training.head_tuning import HeadTrainer, asymmetric_loss, off_target_scores
from ram_backend.training.selection import Candidate, RecalibrationTrainer, RidgeTrainer, fit_candidate

IMAGES, TAGS, OUTSIDE = 160, 5, 12
NAMES = tuple(f"tag {number}" for number in range(TAGS + OUTSIDE))
QUICK: dict[str, Any] = {
    "epochs": 8, "batch": 8, "learning_rate": 1e-2, "replay_tags": 6, "dropout": 0.0, "validation": 0.25,
    "device": "cpu", "gamma_neg": 0.0, "clip": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The heads are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """RAM with drawn weights; the first tags of its vocabulary are the project's."""
    folder = tmp_path_factory.mktemp("tuning")
    tiny.write(folder, "ram", tiny.state_dict("ram", tags=len(NAMES)), NAMES)
    return tiny.loaded(folder, "ram")


def own_tags(bundle: Bundle) -> Subset:
    return resolve_subset(bundle, NAMES[:TAGS])


def trainer(bundle: Bundle, tags: Subset | None = None, **changed: Any) -> HeadTrainer:
    return HeadTrainer(bundle, tags or own_tags(bundle), **{**QUICK, **changed})


def photos(seed: int = 1, images: int = IMAGES) -> TrainingSet:
    """Images whose global token says nothing, so that only a head that looks at the other tokens can learn."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, TAGS)) < 0.4
    directions = np.random.default_rng(99).normal(size=(TAGS, tiny.WIDTH))
    tokens = rng.normal(size=(images, 17, tiny.WIDTH)) * 0.3 + (labels @ directions)[:, None, :]
    tokens[:, 0] = rng.normal(size=tokens[:, 0].shape)
    tokens = tokens.astype(np.float16)
    base = 0.3 * rng.normal(size=(images, TAGS))
    return training_sets.training_set(tokens[:, 0], base, labels, seed=seed, tokens=tokens)


def fitted(trainer: HeadTrainer, training_set: TrainingSet | None = None, seed: int = 5) -> Any:
    """A candidate, or None."""
    return trainer.fit(training_set or photos(), seed, lambda *_: None)


def candidate_of(training_set: TrainingSet, tuning: HeadTrainer, seed: int = 0) -> Candidate:
    """The winner of all trainers."""
    return fit_candidate(training_set, (RecalibrationTrainer(), RidgeTrainer(), tuning), seed=seed)


def log_odds_change(bundle: Bundle, subset: Subset, files: dict[str, bytes], training_set: TrainingSet) -> np.ndarray:
    """What a tuned head changes about the log-odds of the images, when it is served."""
    network = load_network(bundle, device="cpu", precision="fp32")
    both = (Tagger(bundle, each, subset) for each in (tuned_network(network, files), network))
    now, then = (tagger.score(training_set.tokens.astype(np.float32)).log_odds for tagger in both)
    return np.asarray(now - then)


def outside_drift(bundle: Bundle, files: dict[str, bytes]) -> float:
    """How far the log-odds of tags outside the project went, on photos that are none of the project's."""
    outside = resolve_subset(bundle, NAMES[TAGS:])
    return float(np.abs(log_odds_change(bundle, outside, files, photos(seed=50, images=64))).mean())


def test_it_wins_where_only_the_head_can_see_what_matters(bundle: Bundle) -> None:
    training_set = photos()
    candidate = candidate_of(training_set, trainer(bundle), seed=2)
    assert candidate.trainer == "tuning"
    assert set(candidate.files) == {HEAD_FILE}
    edits = {name: figures["edits"] for name, figures in candidate.cross_validated.items()}
    assert edits["tuning"] < 0.8 * min(edits[name] for name in edits if name != "tuning")
    unseen = photos(seed=7)
    z = unseen.base + log_odds_change(bundle, own_tags(bundle), candidate.files, unseen)
    served = candidate.delta.log_odds(z, unseen.features)
    assert mean_average_precision(served, unseen.labels) > mean_average_precision(unseen.base, unseen.labels) + 0.15
    assert unseen.edits(served, unseen.thresholds).mean() < edits["tuning"] + 0.5  # the promise is about kept


def test_it_is_judged_on_images_left_out_only(bundle: Bundle) -> None:
    result = fitted(trainer(bundle))
    assert result.evaluated.sum() == IMAGES // 4
    training_set = photos()
    np.testing.assert_array_equal(result.log_odds[~result.evaluated], training_set.base[~result.evaluated])
    assert np.abs(result.log_odds[result.evaluated] - training_set.base[result.evaluated]).max() > 0.1


@pytest.mark.parametrize("rank", [None, 4])
def test_the_same_seed_gives_the_same_head_and_another_gives_another(bundle: Bundle, rank: int | None) -> None:
    first, again, other = (fitted(trainer(bundle, dropout=0.1, rank=rank, epochs=3), seed=seed) for seed in (5, 5, 6))
    assert first.files == again.files != other.files
    assert first.params["rank"] == rank
    assert set(first.files) == {HEAD_FILE if rank is None else LOW_RANK_FILE}


def test_a_pair_with_weight_0_has_no_say(bundle: Bundle) -> None:
    training_set = photos()
    weights = training_set.weights.copy()
    weights[:, 2] = 0
    weights[::3, 0] = 0
    lies = np.where(weights == 0, ~training_set.labels, training_set.labels)
    results = [
        fitted(trainer(bundle, epochs=2), replace(training_set, weights=weights, labels=labels))
        for labels in (training_set.labels, lies)
    ]
    assert results[0].files == results[1].files


def test_replay_keeps_tags_outside_the_project_closer(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    rising = itertools.count()  # the last epoch is the best, so that all train equally long
    monkeypatch.setattr(head_tuning._Tuning, "_quality", lambda run, log_odds: next(rising))
    results = [fitted(trainer(bundle, replay=replay)) for replay in (3.0, 0.0)]
    other = photos(seed=50, images=64).tokens
    with_photos = fitted(replace(trainer(bundle, replay=3.0), replay_tokens=other))
    assert outside_drift(bundle, results[0].files) < 0.6 * outside_drift(bundle, results[1].files)
    assert outside_drift(bundle, with_photos.files) < 0.7 * outside_drift(bundle, results[1].files)


def test_the_best_epoch_is_kept_and_it_stops_without_gain(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    qualities = iter([0.2, 0.3, 0.5, 0.4, 0.45, 0.9])
    monkeypatch.setattr(head_tuning._Tuning, "_quality", lambda run, log_odds: next(qualities))
    epochs: list[int] = []
    training_set = photos()
    result = trainer(bundle, stop_after=2).fit(training_set, 5, lambda stage, done, total: epochs.append(done))
    assert result.params["epoch"] == 2
    assert epochs == [1, 2, 3, 4]  # two epochs without improvement: the 0.9 is never reached


def test_no_result_where_the_bundle_s_own_head_is_best(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_tuning._Tuning, "_quality", lambda run, log_odds: 0.5)
    assert fitted(trainer(bundle, stop_after=3)) is None
    candidate = candidate_of(photos(), trainer(bundle, stop_after=3))
    assert candidate.trainer in ("recalibration", "ridge")


def test_no_result_without_labels_with_few_images_or_where_it_does_harm(bundle: Bundle) -> None:
    training_set = photos()
    assert fitted(trainer(bundle), replace(training_set, weights=np.zeros_like(training_set.weights))) is None
    assert fitted(trainer(bundle), replace(photos(images=40), groups=np.arange(40) // 2)) is None
    asked: list[set[str]] = []

    def harmless(files: dict[str, bytes]) -> bool:
        asked.append(set(files))
        return False

    assert fitted(replace(trainer(bundle), harmless=harmless)) is None
    assert asked == [{HEAD_FILE}]


def test_what_it_can_not_start_from_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="torch finds none"):
            fitted(trainer(bundle, device="cuda"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NotAvailable, match="pip install"):
        fitted(trainer(bundle, rank=2))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_bundle_is_tuned_and_served_with_what_training_promised(kind: str, rank: int | None, tmp_path: Path) -> None:
    bundle = tiny.imported(tmp_path, kind)
    described = {"tabby": reference.draw("new", (2, tiny.WIDTH), 0, 1)}
    asked = ["dog", "sky", "cat"] if kind == "tag2text" else ["dog", "tabby", "cat"]
    subset = resolve_subset(bundle, asked, Mock(id="none"), described=described)
    network = load_network(bundle, device="cpu", precision="fp32", threads=1)
    tokens = network.encode(tiny.images(40, salt="tuning:").numpy()).astype(np.float16)
    tagger = Tagger(bundle, network, subset, token_dtype="float16")
    base = tagger.score(tokens.astype(np.float32)).log_odds
    labels = base > np.median(base, axis=0) + 0.01 * np.random.default_rng(0).normal(size=base.shape)
    own = {"tags": tagger.tags, "base_thresholds": tagger.thresholds, "incumbent_thresholds": tagger.thresholds}
    training_set = training_sets.training_set(tokens[:, 0], base, labels, tokens=tokens, **own)
    rows, tuning = np.arange(40), trainer(bundle, subset, rank=rank, replay_tags=3)
    run = head_tuning._Tuning(tuning, training_set, rows[:30], rows[30:])
    optimizer = torch.optim.AdamW([part for part in run.head.parameters() if part.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        run.loss(rows[:30], np.random.default_rng(0)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    files = run.files()
    served = Tagger(bundle, tuned_network(network, files), subset, token_dtype="float16")
    found = served.score(tokens.astype(np.float32)).log_odds
    np.testing.assert_allclose(found[30:], run._held_out(), atol=2e-4)
    assert np.abs(found - base).max() > 0.01


@pytest.mark.parametrize("asked", [2, TAGS + OUTSIDE])
def test_only_a_bent_head_moves_other_tags(bundle: Bundle, asked: int) -> None:
    network = load_network(bundle, device="cpu")
    tokens = photos(images=80).tokens  # more than one portion
    moves = []
    for noise in (0.0, 0.02, 0.5):
        rng = np.random.default_rng(0)
        bent = {
            name: (array + noise * np.abs(array).mean() * rng.normal(size=array.shape)).astype(np.float32)
            for name, array in network.head_tensors().items()  # type: ignore[attr-defined]
        }
        subset = resolve_subset(bundle, NAMES[:asked])
        scores = off_target_scores(bundle, network, head_file(HEAD_FILE, bent), subset, tokens, seed=1)
        assert scores[0].shape == (80, len(NAMES) - asked)
        moves.append(measure_shift(*scores).relative_move)
    assert 0 == moves[0] < moves[1] < moves[2] or (asked == len(NAMES) and not any(moves))
    with pytest.raises(VersionDamaged):
        off_target_scores(bundle, network, {HEAD_FILE: b"no head"}, subset, tokens, seed=1)


# The asymmetric loss, whose formula the tests of fine-tuning compare with the paper's


def test_a_pair_counts_as_much_as_it_is_known() -> None:
    logits, labels = torch.tensor([[1.0, -0.5], [0.2, 2.0]], requires_grad=True), torch.tensor([[1, 0], [0, 1]])
    weights = torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    loss = asymmetric_loss(logits, labels, weights)
    alone = [asymmetric_loss(logits, labels, torch.eye(4)[pair].reshape(2, 2)) for pair in range(4)]
    torch.testing.assert_close(loss, sum(weight * part for weight, part in zip(weights.flatten(), alone, strict=True)))
    loss.backward()
    assert logits.grad[1, 0] == 0
    assert (logits.grad.flatten()[[0, 1, 3]] != 0).all()


def test_negatives_below_the_margin_cost_nothing_and_extremes_stay_finite() -> None:
    known = torch.ones(1, 1)
    assert asymmetric_loss(torch.tensor([[-4.0]]), torch.zeros(1, 1), known) == 0
    for logit, label in ((200.0, 0.0), (-200.0, 1.0)):
        loss = asymmetric_loss(torch.tensor([[logit]]), torch.tensor([[label]]), known)
        assert torch.isfinite(loss)
        assert loss > 1
