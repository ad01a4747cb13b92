"""Gradient tuning of the head as a recipe that competes: a tuned head, and on top of it what the residual can add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.head_source import HeadSource
from ram_backend.training.selection import FitResult, Progress, RidgeTrainer
from ram_backend.training.tuning import DEFAULT, Beside, Tuned, tune_head, tune_out_of_fold
from ram_backend.training.tuning_checkpoint import remove_checkpoints
from ram_backend.training.tuning_options import TuningOptions

FloatArray = NDArray[np.float32]

FEWEST = 30
"""Images below which a head isn't tuned: there is nothing to watch it with."""


@dataclass(frozen=True)
class HeadTrainer:
    """Tunes the head, then fits the residual on what heads that never saw an image say about it.

    Costs `parts` + 1 trainings. What the residual is fitted on comes from heads tuned on fewer images than the one that
    is served, so it errs on the careful side.

    Attributes:
        source: the head to start from; its tags are the material's.
        options: see there.
        parts: of the images; each is judged by a head that was tuned on the others.
        also_seen: (M, T, D) tokens of photos on which the bundle's behaviour is replayed, too.
        teacher: CLIP's image features (d,) by the sha256 of the image's bytes; None: no distillation.
        harmless: says whether a head, given as files of a version, leaves other tags alone, see `tuning_guard.py`; one
            that doesn't is not proposed, so that a simpler recipe can win. None: nobody asks.
        checkpoint_dir: where interrupted trainings go on from, a folder of this recipe's own: it is removed as soon as
            all of them are done.
    """

    source: HeadSource = field(repr=False)
    options: TuningOptions = DEFAULT
    parts: int = 3
    also_seen: NDArray[np.float16] | None = field(default=None, repr=False)
    teacher: Mapping[str, FloatArray] | None = field(default=None, repr=False)
    harmless: Callable[[dict[str, bytes]], bool] | None = field(default=None, repr=False)
    checkpoint_dir: Path | None = None

    @property
    def name(self) -> str:
        """Stands in a version's lineage."""
        return "tuning" if self.options.rank is None else "low-rank"

    def propose(
        self, material: TrainingSet, groups: NDArray[np.int64], seed: int, progress: Progress | None
    ) -> FitResult | None:
        """As `candidates.Trainer` says; None for too few images, or a head that is no better or not harmless.

        Raises:
            InputError, NotAvailable, SettingsError: see `tune_head`.
        """
        if len(np.unique(groups)) < FEWEST:
            return None
        proposal = self._trained(material, groups, seed, progress)
        if self.checkpoint_dir is not None:
            remove_checkpoints(self.checkpoint_dir)
        return proposal

    def _trained(
        self, material: TrainingSet, groups: NDArray[np.int64], seed: int, progress: Progress | None
    ) -> FitResult | None:
        beside = self._beside(material)
        tuned = tune_head(
            material,
            groups,
            self.source,
            options=self.options,
            seed=seed,
            beside=beside,
            checkpoint_dir=None if self.checkpoint_dir is None else self.checkpoint_dir / "main",
            progress=progress,
        )
        if not tuned.files or (self.harmless is not None and not self.harmless(tuned.files)):
            return None
        unseen = tune_out_of_fold(
            material,
            groups,
            self.source,
            count=self.parts,
            options=self.options,
            seed=seed,
            beside=beside,
            checkpoint_dir=self.checkpoint_dir,
            progress=progress,
        )
        on_top = RidgeTrainer().propose(replace(material, base=unseen), groups, seed, None)
        assert on_top is not None
        return replace(on_top, params=self._params(tuned, on_top), files=tuned.files)

    def _beside(self, material: TrainingSet) -> Beside:
        return Beside(teacher=self._features(material), also_seen=self.also_seen)

    def _features(self, material: TrainingSet) -> FloatArray | None:
        """CLIP's features of the material's images; zeros where there are none."""
        if not self.teacher:
            return None
        nothing = np.zeros_like(next(iter(self.teacher.values())))
        return np.stack([self.teacher.get(each, nothing) for each in material.content])

    def _params(self, tuned: Tuned, on_top: FitResult) -> dict[str, Any]:
        chosen = {
            "epoch": tuned.epoch,
            "rank": self.options.rank,
            "learning_rate": self.options.rate(self.source.config.hidden),
            "replay": self.options.replay,
            "distilled": self.teacher is not None,
        }
        return {**chosen, "residual": on_top.params}
