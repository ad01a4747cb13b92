"""Tuning a head: what it learns, what it leaves alone, and that it goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training import tiny_tuning as tiny

from ram_backend.errors import InputError, SettingsError
from ram_backend.metrics import mean_average_precision
from ram_backend.models.head_source import HeadSource
from ram_backend.models.tuned import HEAD_FILE, tuned_tensors
from ram_backend.training import tuning
from ram_backend.training.tuning import Beside, Tuned, tune_head, tune_out_of_fold, tuned_log_odds
from ram_backend.training.tuning_data import TagTexts, head_logits
from ram_backend.training.tuning_run import TuningRun, device_of, plain_head

ALL = np.arange(tiny.IMAGES)


class Killed(BaseException):
    """What a process that is killed leaves behind, without ending this one."""


def tune(**changed: object) -> Tuned:
    return tune_head(tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(**changed), seed=3)


def outside_drift(source: HeadSource, tuned: Tuned) -> float:
    """How far the logits of tags outside the project went, on photos that are none of the project's."""
    texts = TagTexts(source, tuple(int(row) for row in source.outside), device_of("cpu"))
    tokens = tiny.material(seed=50).tokens
    assert tokens is not None
    changed = replace(source, tensors=tuned_tensors(source.tensors, tuned.files))
    return float(
        np.abs(head_logits(plain_head(changed), texts, tokens) - head_logits(plain_head(source), texts, tokens)).mean()
    )


def test_it_learns_what_the_bundle_does_not_know() -> None:
    material, unseen = tiny.material(), tiny.material(seed=2)
    tuned = tune_head(material, tiny.groups(), tiny.source(), options=tiny.options(epochs=12), seed=3)
    after = tuned_log_odds(unseen, tiny.source(), tuned.files, device="cpu")
    before = mean_average_precision(unseen.base, unseen.labels)
    assert mean_average_precision(after, unseen.labels) > before + 0.2
    assert tuned.epoch > 0
    np.testing.assert_allclose(
        tuned_log_odds(material, tiny.source(), tuned.files, device="cpu"), tuned.log_odds, atol=1e-5
    )


def test_the_same_seed_gives_the_same_head_and_another_gives_another() -> None:
    first, again = tune(dropout=0.1), tune(dropout=0.1)
    assert first.files == again.files
    np.testing.assert_array_equal(first.log_odds, again.log_odds)
    other = tune_head(tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(dropout=0.1), seed=4)
    assert other.files != first.files


def test_a_pair_with_weight_0_has_no_say() -> None:
    material = tiny.material()
    weights = material.weights.copy()
    weights[:, 2] = 0
    weights[::3, 0] = 0
    lies = np.where(weights == 0, ~material.labels, material.labels)
    runs = [
        tune_head(
            replace(material, weights=weights, labels=labels), tiny.groups(), tiny.source(), options=tiny.options()
        )
        for labels in (material.labels, lies)
    ]
    assert runs[0].files == runs[1].files


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_pair_s_gradient_is_in_proportion_to_its_weight(weight: float) -> None:
    material = tiny.material()
    weights = np.zeros_like(material.weights)
    weights[5, 1] = weight
    run = TuningRun(
        replace(material, weights=weights), tiny.source(), tiny.options(replay=0.0), 0, ALL[:8], ALL[8:8], Beside()
    )
    run._loss(ALL[:8], np.random.default_rng(0)).backward()
    gradient = run.head.classifier.weight.grad
    assert gradient is not None
    whole = TuningRun(
        replace(material, weights=np.where(weights > 0, np.float32(1), weights)),
        tiny.source(), tiny.options(replay=0.0), 0, ALL[:8], ALL[8:8], Beside(),
    )  # fmt: skip
    whole._loss(ALL[:8], np.random.default_rng(0)).backward()
    assert whole.head.classifier.weight.grad is not None
    assert float(gradient.abs().max()) > 0
    np.testing.assert_allclose(gradient.numpy(), weight * whole.head.classifier.weight.grad.numpy(), atol=1e-7)


def test_replay_keeps_tags_outside_the_project_closer() -> None:
    with_it, without = (tune(replay=replay, validation=0.0) for replay in (3.0, 0.0))
    assert outside_drift(tiny.source(), with_it) < 0.6 * outside_drift(tiny.source(), without)


def test_replay_on_other_photos_keeps_them_closer_still() -> None:
    other = tiny.material(seed=50).tokens
    with_them = tune_head(
        tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(replay=3.0, validation=0.0), seed=3,
        beside=Beside(also_seen=other),
    )  # fmt: skip
    assert outside_drift(tiny.source(), with_them) < outside_drift(tiny.source(), tune(replay=3.0, validation=0.0))


def test_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    qualities = iter([0.2, 0.3, 0.5, 0.4, 0.45, 0.9, 0.1])
    seen: list[np.ndarray] = []

    def quality(run: TuningRun) -> float:
        seen.append(run.log_odds(ALL))
        return next(qualities)

    monkeypatch.setattr(tuning, "_quality", quality)
    tuned = tune(patience=2)
    assert len(tuned.history) == 5  # two epochs without improvement: the 0.9 is never reached
    assert tuned.epoch == 2
    np.testing.assert_allclose(tuned.log_odds, seen[2], atol=1e-6)
    assert np.abs(seen[4] - seen[2]).max() > 1e-3


def test_the_bundle_s_own_head_stays_where_nothing_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_quality", lambda run: 0.5)
    tuned = tune(patience=3)
    assert tuned.epoch == 0
    assert tuned.files == {}
    np.testing.assert_array_equal(tuned.log_odds, tiny.material().base)


def test_images_that_nobody_said_anything_about_do_not_take_part() -> None:
    material = tiny.material()
    silent = replace(material, weights=np.zeros_like(material.weights))
    tuned = tune_head(silent, tiny.groups(), tiny.source(), options=tiny.options(replay=0.0), seed=3)
    assert (tuned.files, tuned.epoch, tuned.history) == ({}, 0, ())
    some = np.where(np.arange(tiny.IMAGES)[:, None] % 9 == 0, material.weights, np.float32(0))
    alone = replace(material, weights=some)
    tuned = tune_head(alone, tiny.groups(), tiny.source(), options=tiny.options(replay=0.0, batch=1), seed=3)
    assert np.isfinite(tuned.log_odds).all()
    assert all(np.isfinite(epoch["loss"]) for epoch in tuned.history[1:])


def test_without_validation_the_last_epoch_counts() -> None:
    tuned = tune(validation=0.0, epochs=3)
    assert tuned.epoch == 3
    assert not tuned.watched.any()


@pytest.mark.parametrize("killed_after", [1, 4])
def test_an_interrupted_run_goes_on_to_the_same_head(killed_after: int, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("tuning the head", 6)
        if done == killed_after:
            raise Killed

    wanted = tiny.options(dropout=0.1, patience=6)
    whole = tune_head(tiny.material(), tiny.groups(), tiny.source(), options=wanted, seed=3)
    with pytest.raises(Killed):
        tune_head(
            tiny.material(),
            tiny.groups(),
            tiny.source(),
            options=wanted,
            seed=3,
            checkpoint_dir=tmp_path,
            progress=kill,
        )
    told: list[int] = []
    resumed = tune_head(
        tiny.material(), tiny.groups(), tiny.source(), options=wanted, seed=3, checkpoint_dir=tmp_path,
        progress=lambda stage, done, total: told.append(done),
    )  # fmt: skip
    assert told == list(range(killed_after + 1, 7))
    assert resumed.files == whole.files
    assert resumed.history[1:] == whole.history[1:]
    np.testing.assert_array_equal(resumed.log_odds, whole.log_odds)


def test_a_run_that_is_over_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again() -> Tuned:
        return tune_head(
            tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(), seed=3, checkpoint_dir=tmp_path
        )

    first = again()
    monkeypatch.setattr(TuningRun, "epoch", lambda run, number: pytest.fail("it trains"))
    second = again()
    assert first.files
    assert second.files == first.files
    assert second.epoch == first.epoch
    assert second.history[1:] == first.history[1:]
    np.testing.assert_array_equal(second.log_odds, first.log_odds)


TEACHER = np.random.default_rng(5).normal(size=(tiny.IMAGES, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Beside(), Beside(teacher=TEACHER)),
        (Beside(teacher=TEACHER), Beside()),
        (Beside(teacher=TEACHER), Beside(teacher=-TEACHER)),
        (Beside(), Beside(also_seen=tiny.material(seed=50).tokens)),
        (Beside(also_seen=tiny.material(seed=50).tokens), Beside(also_seen=tiny.material(seed=51).tokens)),
    ],
    ids=["teacher-comes", "teacher-goes", "teacher-changes", "photos-come", "photos-change"],
)
def test_what_stands_beside_the_corrections_names_the_run(before: Beside, after: Beside, tmp_path: Path) -> None:
    def tuned(beside: Beside, directory: Path | None, progress: tuning.Progress | None) -> Tuned:
        return tune_head(
            tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(epochs=3), seed=3, beside=beside,
            checkpoint_dir=directory, progress=progress,
        )  # fmt: skip

    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        tuned(before, tmp_path, kill)
    told: list[int] = []
    found = tuned(after, tmp_path, lambda stage, done, total: told.append(done))
    assert told[0] == 1
    assert found.files == tuned(after, None, None).files


def test_a_checkpoint_that_cannot_be_gone_on_from_is_started_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    def tuned(progress: tuning.Progress) -> Tuned:
        return tune_head(
            tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(epochs=3), seed=3,
            checkpoint_dir=tmp_path, progress=progress,
        )  # fmt: skip

    with pytest.raises(Killed):
        tuned(kill)
    (file,) = tmp_path.iterdir()
    stored = torch.load(file, weights_only=True)
    del stored["learning"]["optimizer"]["param_groups"][0]["params"][0]
    torch.save(stored, file)
    told: list[int] = []
    found = tuned(lambda stage, done, total: told.append(done))
    assert told == [1, 2, 3]
    assert found.files == tune(epochs=3).files
    assert "Tuning starts over" in caplog.text


def test_the_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        tune_head(
            tiny.material(), tiny.groups(), tiny.source(), options=tiny.options(), seed=3, checkpoint_dir=tmp_path,
            progress=kill,
        )  # fmt: skip
    (file,) = tmp_path.iterdir()
    told: list[int] = []
    other = tune_head(
        tiny.material(seed=9), tiny.groups(), tiny.source(), options=tiny.options(), seed=3, checkpoint_dir=tmp_path,
        progress=lambda stage, done, total: told.append(done),
    )  # fmt: skip
    assert told[0] == 1
    file.write_bytes(b"ends early")
    again = tune_head(
        tiny.material(seed=9), tiny.groups(), tiny.source(), options=tiny.options(), seed=3, checkpoint_dir=tmp_path
    )
    assert again.files == other.files


def test_out_of_fold_log_odds_never_saw_the_image_s_own_labels() -> None:
    material, groups = tiny.material(), tiny.groups()
    options = tiny.options(epochs=2, validation=0.0)
    found = tune_out_of_fold(material, groups, tiny.source(), options=options, seed=1)
    assert found.shape == material.base.shape
    labels = material.labels.copy()
    labels[:2] = ~labels[:2]  # one group
    changed = tune_out_of_fold(replace(material, labels=labels), groups, tiny.source(), options=options, seed=1)
    np.testing.assert_array_equal(found[:2], changed[:2])
    assert (found != changed).any()


def test_progress_of_all_folds_ends_where_it_should() -> None:
    told: list[tuple[str, int, int]] = []
    options = tiny.options(epochs=2, validation=0.0)
    tune_out_of_fold(
        tiny.material(), tiny.groups(), tiny.source(), options=options, progress=lambda *step: told.append(step)
    )
    assert [done for _, done, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1] == ("tuning the head (part 3 of 3)", 6, 6)


@pytest.mark.parametrize("given", ["tokens", "groups", "entries", "width", "teacher"])
def test_what_does_not_fit_is_said(given: str) -> None:
    material, groups, source, teacher = tiny.material(), tiny.groups(), tiny.source(), None
    if given == "tokens":
        material = replace(material, tokens=None)
    elif given == "groups":
        groups = groups[1:]
    elif given == "entries":
        source = source.take([0, 1])
    elif given == "width":
        source = tiny.source(token_width=3)
    else:
        teacher = np.full((tiny.IMAGES, 3), np.nan, dtype=np.float32)
    with pytest.raises(InputError, match=r"Tuning|tuning"):
        tune_head(material, groups, source, options=tiny.options(), beside=Beside(teacher=teacher))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"rank": 0}, {"validation": 1.0}, {"learning_rate": 0.0}, {"replay": -1.0}]
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"[Tt]uning"):
        tiny.options(**wrong)


def test_a_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="cuda"):
        tune(device="cuda")


def test_mixed_precision_learns_too() -> None:
    unseen = tiny.material(seed=2)
    tuned = tune(precision="bf16", epochs=12)
    after = tuned_log_odds(unseen, tiny.source(), tuned.files, device="cpu")
    assert mean_average_precision(after, unseen.labels) > mean_average_precision(unseen.base, unseen.labels) + 0.15
    assert tuned.files != tune(epochs=12).files
    assert all(array.dtype == np.float32 for array in tuned_tensors(tiny.source().tensors, tuned.files).values())


def test_a_head_with_own_classifiers_per_tag_is_tuned() -> None:
    source = tiny.source(classifier="per_tag", tags=tiny.TAGS + tiny.OUTSIDE, project=False, label_width=None)
    tuned = tune_head(tiny.material(), tiny.groups(), source, options=tiny.options(validation=0.0), seed=3)
    assert set(tuned.files) == {HEAD_FILE}
    assert mean_average_precision(tuned.log_odds, tiny.material().labels) > mean_average_precision(
        tiny.material().base, tiny.material().labels
    )
