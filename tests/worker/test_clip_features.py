"""A training of a bundle whose texts CLIP embeds: the head is held to what CLIP sees in the corrected images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from jobs.making import KEY, connect, correct, make_due
from models import tiny, tiny_clip

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.models.importing import import_checkpoint
from ram_backend.settings import Settings
from ram_backend.training.selection import Candidate, fit_candidate
from ram_backend.training.tuning_options import TuningOptions
from ram_backend.training.tuning_recipe import HeadTrainer
from ram_backend.worker import train as training_job
from ram_backend.worker.run_job import carry_out
from ram_backend.worker.token_loader import Pictures

NUMBERS = range(1, 101)
CONFIG = """<View><Image name="image" value="$image"/><Choices name="tags" toName="image" choice="multiple">
<Choice value="cat"/><Choice value="dog"/><Choice value="sky"/></Choices></View>"""


class Fits:
    """Sees the recipes that would compete; a head is tuned only where that is wanted."""

    def __init__(self) -> None:
        self.recipes: list[HeadTrainer] = []
        self.images: list[int] = []
        self.tunes = False

    def __call__(self, fit: Any, groups: Any, recipes: Sequence[Any], **named: Any) -> Candidate:
        self.images.append(len(set(fit.content)))
        own = next(each for each in recipes if isinstance(each, HeadTrainer))
        self.recipes.append(own)
        others = [each for each in recipes if each is not own]
        quick = replace(own, options=TuningOptions(epochs=2, replay_tags=3, device="cpu"), parts=2)
        return fit_candidate(fit, groups, [*others, quick] if self.tunes else others, **named)


def bundle_of(kind: str, folder: Path) -> Bundle:
    if (folder / "bundles" / kind).is_dir():
        return open_bundle(folder / "bundles" / kind)
    file, tags = tiny.write(folder, kind)
    return import_checkpoint(file, tags, name=kind, bundles_dir=folder / "bundles", **tiny.options(kind))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    there = Fits()
    monkeypatch.setattr(training_job, "fit_candidate", there)
    monkeypatch.setattr(training_job, "refuse_before_fitting", lambda *_, **__: None)
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: tiny_clip.CONFIG)
    return there


@pytest.fixture
def train(
    settings: Settings, database: Database, queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Job]:
    monkeypatch.setattr("jobs.making.CONFIG", CONFIG)
    connect(database, KEY)

    def done(kind: str = "ram", clip: Path | None = None) -> Job:
        monkeypatch.setattr(training_job, "find_bundle", lambda *_, **__: bundle_of(kind, tmp_path))
        changes = {"tuning": "whole", "device": "cpu", "clip_weights": clip}
        job = queue.request(KEY, "train", "asked").job
        make_due(database, job.id)
        functions = {"train": training_job.train}
        carry_out(settings.model_copy(update=changes), database, job.id, functions)  # type: ignore[arg-type]
        found = queue.get(job.id)
        assert found is not None
        assert found.state == "done", found.message
        return found

    return done


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_clip.write(tmp_path / "clip.safetensors")


def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each look asks for."""
    counts: list[int] = []
    own = Pictures.fetch

    def counting(self: Pictures, labels: Any, places: Sequence[int]) -> Any:
        counts.append(len(places))
        return own(self, labels, places)

    monkeypatch.setattr(Pictures, "fetch", counting)
    return counts


def test_clip_s_features_are_taught_and_kept(
    train: Callable[..., Job], fits: Fits, clip: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct(database, *NUMBERS)
    counts = fetched(monkeypatch)
    fits.tunes = True
    train(clip=clip)
    fits.tunes = False
    teacher = fits.recipes[0].teacher
    assert teacher is not None
    assert len(teacher) == fits.images[0] >= 30
    rows = np.stack(list(teacher.values()))
    assert rows.shape[1] == tiny_clip.DIM
    assert np.isfinite(rows).all()
    assert len(np.unique(rows.round(3), axis=0)) > 10  # they differ from image to image
    assert counts == [len(NUMBERS), fits.images[0]]

    correct(database, max(NUMBERS) + 1)
    train(clip=clip)
    again = fits.recipes[1].teacher
    assert again is not None
    assert counts[2] == 1  # the new image; at most it is new to CLIP, too
    assert sum(counts[3:]) <= 1
    for content in set(teacher) & set(again):
        np.testing.assert_array_equal(teacher[content], again[content])


def test_without_clip_s_weights_the_head_is_tuned_without_them(
    train: Callable[..., Job], fits: Fits, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    correct(database, *NUMBERS)
    with caplog.at_level(logging.WARNING):
        train(clip=tmp_path / "none.pt")
    assert fits.recipes[0].teacher is None
    assert "tuned without CLIP's help: CLIP's weights: " in caplog.text


def test_tag2text_knows_nothing_of_clip(
    train: Callable[..., Job], fits: Fits, clip: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    correct(database, *NUMBERS)
    train("tag2text", clip=clip)
    assert fits.recipes[0].teacher is None
    assert "CLIP" not in caplog.text


def test_an_image_that_has_changed_meanwhile_teaches_nothing(
    train: Callable[..., Job], fits: Fits, clip: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct(database, *NUMBERS)
    own, looks = Pictures.fetch, []

    def changing(self: Pictures, labels: Any, places: Sequence[int]) -> Any:
        looks.append(len(places))
        for number, (place, outcome) in enumerate(own(self, labels, places)):
            if len(looks) == 2 and number == 0:
                yield place, b"no image"
            elif len(looks) == 2 and number == 1:
                yield place, outcome + b"more" if isinstance(outcome, bytes) else outcome
            else:
                yield place, outcome

    monkeypatch.setattr(Pictures, "fetch", changing)
    train(clip=clip)
    teacher = fits.recipes[0].teacher
    assert teacher is not None
    assert len(teacher) == fits.images[0] - 2
