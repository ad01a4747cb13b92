"""Tuning as a recipe among others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training import tiny_tuning as tiny

from ram_backend.metrics import mean_average_precision
from ram_backend.models.tuned import HEAD_FILE, LOW_RANK_FILE
from ram_backend.training import tuning_recipe
from ram_backend.training.selection import RidgeTrainer, fit_candidate
from ram_backend.training.tuning import tuned_log_odds
from ram_backend.training.tuning_recipe import HeadTrainer
from ram_backend.training.tuning_rule import Tuning, tuning_rank


def blind(seed: int) -> tuple:  # type: ignore[type-arg]
    """Images whose global token says nothing, so that only a head that looks at the other tokens can learn."""
    material = tiny.material(seed=seed, images=160)
    assert material.tokens is not None
    tokens = material.tokens.copy()
    tokens[:, 0] = np.random.default_rng(seed).normal(size=tokens[:, 0].shape)
    return replace(material, tokens=tokens, features=tokens[:, 0].astype(np.float32)), np.arange(160)


def recipe(**changed: object) -> HeadTrainer:
    return HeadTrainer(tiny.source(), options=tiny.options(epochs=8, **changed), parts=2)


def test_it_wins_where_only_the_head_can_see_what_matters() -> None:
    material, groups = blind(1)
    candidate = fit_candidate(material, groups, recipes=(RidgeTrainer(), recipe()), seed=2)
    assert candidate.recipe == "tuning"
    assert set(candidate.files) == {HEAD_FILE}
    assert candidate.cross_validated["tuning"]["mAP"] > candidate.cross_validated["residual"]["mAP"] + 0.05
    unseen, _ = blind(7)
    z = tuned_log_odds(unseen, tiny.source(), candidate.files, device="cpu")
    served = mean_average_precision(candidate.logits(z, unseen.features), unseen.labels)
    assert served > mean_average_precision(unseen.base, unseen.labels) + 0.15
    assert served > candidate.cross_validated["tuning"]["mAP"] - 0.15  # what was promised is about what comes


def test_the_same_seed_proposes_the_same() -> None:
    material, groups = blind(1)
    first, again = (recipe(dropout=0.1).propose(material, groups, 5, None) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.files == again.files
    np.testing.assert_array_equal(first.log_odds, again.log_odds)
    np.testing.assert_array_equal(first.delta.weight, again.delta.weight)
    assert first.params["epoch"] > 0


class Killed(BaseException):
    """What a process that is killed leaves behind, without ending this one."""


@pytest.mark.parametrize("killed_in", ["", "(part 1 of 2)", "(part 2 of 2)"])
def test_interrupted_trainings_go_on_and_none_is_made_twice(killed_in: str, tmp_path: Path) -> None:
    material, groups = blind(1)
    directory = tmp_path / "project"
    quick = tiny.options(epochs=3, validation=0.0)
    resumable = HeadTrainer(tiny.source(), options=quick, parts=2, checkpoint_dir=directory)
    straight: list[tuple[str, int]] = []
    whole = resumable.propose(material, groups, 5, lambda stage, done, total: straight.append((stage, done)))
    assert whole is not None
    assert not directory.exists()
    assert len(straight) == 9
    told: list[tuple[str, int]] = []

    def kill(stage: str, done: int, total: int) -> None:
        told.append((stage, done))
        if stage == f"tuning the head {killed_in}".strip() and done % 3 == 2:
            raise Killed

    with pytest.raises(Killed):
        resumable.propose(material, groups, 5, kill)
    resumed = resumable.propose(material, groups, 5, lambda stage, done, total: told.append((stage, done)))
    assert told == straight
    assert resumed is not None
    assert resumed.files == whole.files
    np.testing.assert_array_equal(resumed.log_odds, whole.log_odds)
    assert not directory.exists()


def test_checkpoints_go_where_nothing_is_proposed(tmp_path: Path) -> None:
    material, groups = blind(1)
    refused = replace(recipe(), checkpoint_dir=tmp_path / "project", harmless=lambda files: False)
    assert refused.propose(material, groups, 0, None) is None
    assert list(tmp_path.iterdir()) == []


def test_low_rank_has_a_name_and_a_file_of_its_own() -> None:
    material, groups = blind(1)
    small = recipe(rank=4, learning_rate=2e-2)
    assert (small.name, recipe().name) == ("low-rank", "tuning")
    proposal = small.propose(material, groups, 0, None)
    assert proposal is not None
    assert set(proposal.files) == {LOW_RANK_FILE}
    assert proposal.params["rank"] == 4


def test_too_few_images_propose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    material = tiny.material(images=40)
    assert recipe().propose(material, np.arange(40) // 2, 0, None) is None
    monkeypatch.setattr(tuning_recipe, "FEWEST", 20)
    assert recipe(validation=0.0).propose(material, np.arange(40) // 2, 0, None) is not None


def test_nothing_is_proposed_where_tuning_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ram_backend.training import tuning

    monkeypatch.setattr(tuning, "_quality", lambda run: 0.5)
    material, groups = blind(1)
    assert recipe().propose(material, groups, 0, None) is None
    candidate = fit_candidate(material, groups, recipes=(RidgeTrainer(), recipe()))
    assert candidate.recipe == "residual"
    assert list(candidate.cross_validated) == ["residual"]


def test_a_head_that_does_harm_is_not_proposed() -> None:
    material, groups = blind(1)
    asked: list[set[str]] = []

    def harmless(files: dict[str, bytes]) -> bool:
        asked.append(set(files))
        return False

    assert replace(recipe(), harmless=harmless).propose(material, groups, 0, None) is None
    assert asked == [{HEAD_FILE}]


@pytest.mark.parametrize(
    ("tuning", "images", "on_gpu", "expected"),
    [
        ("auto", 1000, False, (False, None)),
        ("auto", 299, True, (False, None)),
        ("auto", 300, True, (True, None)),
        ("off", 5000, True, (False, None)),
        ("whole", 40, False, (True, None)),
        ("low-rank", 40, False, (True, 8)),
    ],
)
def test_when_a_head_is_tuned(tuning: Tuning, images: int, on_gpu: bool, expected: tuple[bool, int | None]) -> None:
    assert tuning_rank(tuning, images=images, on_gpu=on_gpu) == expected


def test_clip_s_features_are_found_by_their_image_s_hash() -> None:
    material, _ = blind(1)
    some = {material.content[3]: np.ones(4, dtype=np.float32), "another": np.ones(4, dtype=np.float32)}
    told = replace(recipe(), teacher=some)
    beside = told._beside(material)
    assert beside.teacher is not None
    assert np.flatnonzero(beside.teacher.any(axis=1)).tolist() == [3]
    assert recipe()._beside(material).teacher is None


def test_asking_loads_no_torch() -> None:
    code = (
        "import sys; from ram_backend.training.tuning_rule import tuning_rank;"
        "tuning_rank('auto', images=9, on_gpu=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
