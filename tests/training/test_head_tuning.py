"""Fine-tuning of the head: what it learns, what it leaves alone, when it stops."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import reference
from models import tiny as tiny_files
from training import tiny_head as tiny

from ram_backend.errors import InputError, NotAvailable, SettingsError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.head_checkpoint import HeadCheckpoint, open_head
from ram_backend.models.importing import import_checkpoint
from ram_backend.models.network import load_network
from ram_backend.models.tuned import HEAD_FILE, LOW_RANK_FILE, tuned_network, tuned_tensors
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.training import head_tuning
from ram_backend.training.head_tuning import HeadTrainer, add_factors, factors_of, log_odds_change, plain_head
from ram_backend.training.selection import FitResult, RidgeTrainer, fit_candidate

CPU = torch.device("cpu")
IMAGES = 160


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The heads are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(checkpoint: HeadCheckpoint | None = None, **changed: object) -> HeadTrainer:
    return HeadTrainer(tiny.checkpoint() if checkpoint is None else checkpoint, tiny.options(**changed))


def fitted(trainer: HeadTrainer, material: TrainingSet | None = None, seed: int = 5) -> FitResult | None:
    material = tiny.training_set(images=IMAGES) if material is None else material
    return trainer.fit(material, np.arange(len(material)), seed, None)


def tuned_log_odds(checkpoint: HeadCheckpoint, files: dict[str, bytes], material: TrainingSet) -> np.ndarray:
    changed = replace(checkpoint, tensors=tuned_tensors(checkpoint.tensors, files))
    assert material.tokens is not None
    now, then = (log_odds_change(each, plain_head(each), material.tokens, CPU) for each in (changed, checkpoint))
    return np.asarray(material.base + now - then)


def outside_drift(files: dict[str, bytes]) -> float:
    """How far the log-odds of tags outside the project went, on photos that are none of the project's."""
    checkpoint = tiny.checkpoint()
    outside = replace(checkpoint, entries=tuple(int(row) for row in checkpoint.outside), slope=checkpoint.outside_slope)
    material = tiny.training_set(seed=50)
    assert material.tokens is not None
    changed = replace(outside, tensors=tuned_tensors(outside.tensors, files))
    now, then = (log_odds_change(each, plain_head(each), material.tokens, CPU) for each in (changed, outside))
    return float(np.abs(now - then).mean())


def test_it_wins_where_only_the_head_can_see_what_matters() -> None:
    material = tiny.training_set(images=IMAGES)
    candidate = fit_candidate(material, np.arange(IMAGES), (RidgeTrainer(), trainer()), seed=2)
    assert candidate.recipe == "tuning"
    assert set(candidate.files) == {HEAD_FILE}
    assert candidate.cross_validated["tuning"]["mAP"] > candidate.cross_validated["residual"]["mAP"] + 0.05
    unseen = tiny.training_set(seed=7, images=IMAGES)
    z = tuned_log_odds(tiny.checkpoint(), candidate.files, unseen).astype(np.float32)
    served = mean_average_precision(candidate.logits(z, unseen.features), unseen.labels)
    assert served > mean_average_precision(unseen.base, unseen.labels) + 0.15
    assert served > candidate.cross_validated["tuning"]["mAP"] - 0.15  # what was promised is about what comes


def test_it_is_judged_on_images_left_out_only() -> None:
    result = fitted(trainer())
    assert result is not None
    assert result.judged.sum() == IMAGES // 4
    material = tiny.training_set(images=IMAGES)
    np.testing.assert_array_equal(result.log_odds[~result.judged], material.base[~result.judged])
    assert np.abs(result.log_odds[result.judged] - material.base[result.judged]).max() > 0.1


@pytest.mark.parametrize("rank", [None, 4])
def test_the_same_seed_gives_the_same_head_and_another_gives_another(rank: int | None) -> None:
    first, again, other = (fitted(trainer(dropout=0.1, rank=rank, epochs=3), seed=seed) for seed in (5, 5, 6))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.files == again.files != other.files
    assert first.params["rank"] == rank
    assert set(first.files) == {HEAD_FILE if rank is None else LOW_RANK_FILE}


def test_a_pair_with_weight_0_has_no_say() -> None:
    material = tiny.training_set(images=IMAGES)
    weights = material.weights.copy()
    weights[:, 2] = 0
    weights[::3, 0] = 0
    lies = np.where(weights == 0, ~material.labels, material.labels)
    results = [
        fitted(trainer(epochs=2), replace(material, weights=weights, labels=labels))
        for labels in (material.labels, lies)
    ]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].files == results[1].files


def test_replay_keeps_tags_outside_the_project_closer() -> None:
    results = [fitted(trainer(replay=replay)) for replay in (3.0, 0.0)]
    other = tiny.training_set(seed=50).tokens
    with_photos = fitted(replace(trainer(replay=3.0), replay_tokens=other))
    assert results[0] is not None
    assert results[1] is not None
    assert with_photos is not None
    assert outside_drift(results[0].files) < 0.6 * outside_drift(results[1].files)
    assert outside_drift(with_photos.files) < outside_drift(results[0].files)


def test_replay_costs_nothing_at_the_start() -> None:
    """Dropout in the replayed pass would be trained against as if it were drift."""
    rows = np.arange(IMAGES)
    losses = []
    for replay in (0.0, 3.0):
        run = head_tuning._Tuning(trainer(dropout=0.3, replay=replay), tiny.training_set(images=IMAGES), rows, rows)
        run.head.train()
        torch.manual_seed(0)
        losses.append(float(run.loss(rows[:8], np.random.default_rng(0)).detach()))
        assert run.head.training
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_best_epoch_is_kept_and_it_stops_when_nothing_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    qualities = iter([0.2, 0.3, 0.5, 0.4, 0.45, 0.9])
    monkeypatch.setattr(head_tuning._Tuning, "_quality", lambda run, log_odds: next(qualities))
    told: list[int] = []
    material = tiny.training_set(images=IMAGES)
    result = trainer(patience=2).fit(material, np.arange(IMAGES), 5, lambda stage, done, total: told.append(done))
    assert result is not None
    assert result.params["epoch"] == 2
    assert told == [1, 2, 3, 4]  # two epochs without improvement: the 0.9 is never reached


def test_no_result_where_the_bundle_s_own_head_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_tuning._Tuning, "_quality", lambda run, log_odds: 0.5)
    assert fitted(trainer(patience=3)) is None
    candidate = fit_candidate(tiny.training_set(images=IMAGES), np.arange(IMAGES), (RidgeTrainer(), trainer()))
    assert candidate.recipe == "residual"


def test_no_result_without_labels_with_few_images_or_where_it_does_harm() -> None:
    material = tiny.training_set(images=IMAGES)
    assert fitted(trainer(), replace(material, weights=np.zeros_like(material.weights))) is None
    assert trainer().fit(tiny.training_set(images=40), np.arange(40) // 2, 0, None) is None
    asked: list[set[str]] = []

    def harmless(files: dict[str, bytes]) -> bool:
        asked.append(set(files))
        return False

    assert fitted(replace(trainer(), harmless=harmless)) is None
    assert asked == [{HEAD_FILE}]


def test_lora_trains_the_products_of_the_layers_and_nothing_else() -> None:
    head = plain_head(tiny.checkpoint())
    add_factors(head, 3)
    learning = {name for name, part in head.named_parameters() if part.requires_grad}
    assert learning
    assert all("lora_" in name and name.startswith("layers.") for name in learning)
    factors = factors_of(head)
    assert len(factors) == 12  # six products in each of two layers
    assert all(pair.a.shape[0] == pair.b.shape[1] == 3 and not pair.b.any() for pair in factors.values())


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"rank": -1}, {"validation": 1.0}, {"dropout": 1.0}, {"replay": -0.1}, {"patience": 0}]
)
def test_options_that_can_not_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Fine-tuning needs"):
        tiny.options(**wrong)


def test_what_it_can_not_start_from_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    material = tiny.training_set(images=IMAGES)
    with pytest.raises(InputError, match="needs image tokens"):
        fitted(trainer(), replace(material, tokens=None))
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="no such device"):
            fitted(trainer(device="cuda"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NotAvailable, match="pip install"):
        fitted(trainer(rank=2))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", tiny_files.KINDS)
def test_a_bundle_is_tuned_and_served_with_what_training_promised(kind: str, rank: int | None, tmp_path: Path) -> None:
    file, tags = tiny_files.write(tmp_path, kind)
    bundle = import_checkpoint(file, tags, name=kind, bundles_dir=tmp_path / "bundles", **tiny_files.options(kind))
    described = {"tabby": reference.draw("new", (2, tiny_files.WIDTH), 0, 1)}

    class Encoder:
        id = "none"

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            raise AssertionError("everything is described")

    asked = ["dog", "sky", "cat"] if kind == "tag2text" else ["dog", "tabby", "cat"]
    subset = resolve_subset(bundle, asked, Encoder(), described=described)  # type: ignore[arg-type]
    network = load_network(bundle, device="cpu", precision="fp32", threads=1)
    tokens = network.encode(tiny_files.images(40, salt="tuning:").numpy()).astype(np.float16)
    tagger = Tagger(bundle, network, subset, token_dtype="float16")
    base = tagger.log_odds(tagger.score(tokens.astype(np.float32)))
    material = replace(
        tiny.training_set(images=40),
        tags=tagger.tags,
        features=tokens[:, 0].astype(np.float32),
        tokens=tokens,
        base=base,
        incumbent=base,
        labels=base > np.median(base, axis=0) + 0.01 * np.random.default_rng(0).normal(size=base.shape),
        weights=np.ones(base.shape, dtype=np.float32),
        known_tags=np.ones(3, dtype=bool),
        base_thresholds=tagger.thresholds,
    )
    checkpoint = open_head(bundle, subset.entries, subset.calibration.slope)
    rows = np.arange(40)
    run = head_tuning._Tuning(trainer(checkpoint, rank=rank, replay_tags=3), material, rows[:30], rows[30:])
    optimizer = torch.optim.AdamW([part for part in run.head.parameters() if part.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        run.loss(rows[:30], np.random.default_rng(0)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    files = run._files()
    served = Tagger(bundle, tuned_network(network, files), subset, token_dtype="float16")
    found = served.log_odds(served.score(tokens.astype(np.float32)))
    np.testing.assert_allclose(found, tuned_log_odds(checkpoint, files, material), atol=2e-4)
    assert np.abs(found - base).max() > 0.01
