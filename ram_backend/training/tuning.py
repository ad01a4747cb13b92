"""Tunes a bundle's tagging head by gradient on a project's corrections; the encoder is never touched.

What is minimised, over images of the project:

    the asymmetric loss of the project's tags, each pair counted by how much its label is believed
  + replay of the bundle's own behaviour: tags outside the project stay what the bundle says about them
  + CLIP distillation, where image features of CLIP are given

Each round starts from the bundle's head and learns from all corrections, so earlier ones are not forgotten and those
that were withdrawn leave no trace. An inner validation part of the images says when to stop; the best epoch is kept,
and that may be none: then the head is the bundle's. Same seed, same head, also where training was interrupted and
went on from its checkpoint.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.head_source import HeadSource
from ram_backend.models.tuned import tuned_tensors
from ram_backend.training.tuning_checkpoint import Checkpoint, Progressed, fingerprint
from ram_backend.training.tuning_data import (
    NOTHING_BESIDE,
    Beside,
    TagTexts,
    folds,
    head_logits,
    inner_validation,
)
from ram_backend.training.tuning_options import TuningOptions
from ram_backend.training.tuning_run import TuningRun, device_of, plain_head, reproducible

__all__ = ["Beside", "Tuned", "TuningOptions", "tune_head", "tune_out_of_fold", "tuned_log_odds"]

FloatArray = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
DEFAULT = TuningOptions()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """A head that was tuned.

    Attributes:
        files: of a version, see `models/tuned.py`; empty where no epoch was better than the bundle's own head.
        log_odds: (N, L) float32 calibrated log-odds of the material's tags under the tuned head; on images that were
            trained on they look better than they are.
        watched: (N,) bool, images of the inner validation part: not trained on, but the epoch was chosen on them.
        epoch: the one that was kept, 0: the bundle's own head.
        history: per epoch from 0 on, "validation" (mean average precision, nan where it can't be told) and "loss";
            empty where nobody said anything about any image.
    """

    files: dict[str, bytes] = field(repr=False)
    log_odds: FloatArray = field(repr=False)
    watched: NDArray[np.bool_] = field(repr=False)
    epoch: int
    history: tuple[dict[str, float], ...]


def tune_head(
    material: TrainingSet,
    groups: NDArray[np.int64],
    source: HeadSource,
    *,
    options: TuningOptions = DEFAULT,
    seed: int = 0,
    beside: Beside = NOTHING_BESIDE,
    checkpoint_dir: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tunes one head.

    Args:
        material: with tokens; `source.entries` are its tags, in its order.
        groups: (N,) near-duplicates have the same number and stay on one side of the inner validation.
        source: the head to start from, see `open_head`.
        options: see there.
        seed: same seed, same head (on the same machine, device and thread count).
        beside: CLIP's image features, other photos.
        checkpoint_dir: where every epoch leaves what an interrupted run goes on from. A run that is over leaves what
            came out, and the same run gives that without training again, until the caller removes the folder.
        progress: told after each epoch: "tuning the head", how many are done, of how many at most.

    Raises:
        InputError: the material has no tokens, or shapes don't fit.
        NotAvailable: low rank without peft.
        SettingsError: the device is not there.
    """
    _check(material, groups, source, beside)
    watched = inner_validation(groups, options.validation, seed)
    chosen, judged = np.flatnonzero(~watched & material.known.any(axis=1)), np.flatnonzero(watched)
    if not len(chosen):
        return Tuned(files={}, log_odds=material.base, watched=watched, epoch=0, history=())
    checkpoint = None
    if checkpoint_dir is not None:
        checkpoint = Checkpoint(checkpoint_dir, fingerprint(options, seed, material, source, chosen, judged, beside))
    with reproducible(device_of(options.device)):
        run, reached = _begun(lambda: TuningRun(material, source, options, seed, chosen, judged, beside), checkpoint)
        _train(run, reached, checkpoint, progress)
        if reached.best:
            run.restore(reached.best_state)
        tuned = Tuned(
            files=run.files() if reached.best else {},
            log_odds=run.log_odds(np.arange(len(material))) if reached.best else material.base,
            watched=watched,
            epoch=reached.best,
            history=tuple(reached.history),
        )
    return tuned


def tune_out_of_fold(
    material: TrainingSet,
    groups: NDArray[np.int64],
    source: HeadSource,
    *,
    count: int = 3,
    options: TuningOptions = DEFAULT,
    seed: int = 0,
    beside: Beside = NOTHING_BESIDE,
    checkpoint_dir: Path | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """What tuning is worth: each image's log-odds under a head that was tuned without it and its near-duplicates.

    Args:
        material: as in `tune_head`.
        groups: (N,).
        source: as in `tune_head`.
        count: heads that are tuned, at least 2; each without one part of the images.
        options: as in `tune_head`.
        seed: as in `tune_head`.
        beside: as in `tune_head`.
        checkpoint_dir: as in `tune_head`, with a folder for each head.
        progress: told after each epoch of each head.

    Returns:
        (N, L) float32 calibrated log-odds: for choosing among recipes, and for fitting what comes on top.

    Raises:
        InputError, NotAvailable, SettingsError: as `tune_head`.
    """
    _check(material, groups, source, beside)
    found = material.base.copy()
    parts = folds(groups, count, seed)
    for number, part in enumerate(parts):
        rest = np.flatnonzero(~part)
        if not len(rest):
            continue
        told = None if progress is None else _within(progress, number, len(parts))
        tuned = tune_head(
            material.take(rest),
            groups[rest],
            source,
            options=options,
            seed=seed,
            beside=beside.take(rest),
            checkpoint_dir=None if checkpoint_dir is None else checkpoint_dir / f"fold-{number}",
            progress=told,
        )
        if tuned.files:
            held = np.flatnonzero(part)
            found[held] = tuned_log_odds(material.take(held), source, tuned.files, device=options.device)
    return found


def tuned_log_odds(
    material: TrainingSet, source: HeadSource, files: dict[str, bytes], *, device: str = "auto"
) -> FloatArray:
    """Calibrated log-odds (N, L) of a material's tags under a tuned head: what `base` is under the bundle's.

    Raises:
        InputError: the material has no tokens.
        VersionDamaged: the files are not of a head like the source's.
        SettingsError: the device is not there.
    """
    tokens = _tokens(material)
    place = device_of(device)
    texts = TagTexts(source, source.entries, place)
    own = plain_head(source).to(place)
    tuned = plain_head(replace(source, tensors=tuned_tensors(source.tensors, files))).to(place)
    change = head_logits(tuned, texts, tokens) - head_logits(own, texts, tokens)
    found: FloatArray = (material.base + source.scale * change).astype(np.float32)
    return found


def _begun(make: Callable[[], TuningRun], checkpoint: Checkpoint | None) -> tuple[TuningRun, Progressed]:
    """A run at its start, or where an interrupted one was."""
    run = make()
    saved = None if checkpoint is None else checkpoint.load(run.device)
    if saved is not None:
        reached, learning = saved
        try:
            run.restore(reached.best_state)
            if learning:
                run.resume(learning)
            return run, reached
        except Exception as error:  # torch raises what it likes, and each attempt of the job would meet it again
            _log.warning("Tuning starts over: its checkpoint can't be gone on from (%r).", error)
            run = make()
    return run, Progressed(history=[{"validation": _quality(run), "loss": math.nan}])


def _train(run: TuningRun, reached: Progressed, checkpoint: Checkpoint | None, progress: Progress | None) -> None:
    """Runs epochs until the last one, or until nothing has improved for some time; `reached` says what came out."""
    judging = len(run.watched) > 0 and not math.isnan(reached.history[0]["validation"])
    while reached.done < run.options.epochs and not (judging and _tired(reached, run.options.patience)):
        number = reached.done + 1
        loss = run.epoch(number)
        reached.history.append({"validation": _quality(run), "loss": loss})
        reached.done = number
        if not judging or reached.history[number]["validation"] > reached.history[reached.best]["validation"]:
            reached.best, reached.best_state = number, run.state()
        if checkpoint is not None:
            checkpoint.save(reached, run.learning())
        if progress is not None:
            progress("tuning the head", number, run.options.epochs)
    if checkpoint is not None:
        checkpoint.save(reached, {})


def _tired(reached: Progressed, patience: int) -> bool:
    return reached.done - reached.best >= patience


def _quality(run: TuningRun) -> float:
    """Mean average precision on the watched images, over all tags that somebody saw there; nan where there is none."""
    if not len(run.watched):
        return math.nan
    rows = run.watched
    known = run.material.weights[rows] > 0
    return mean_average_precision(run.log_odds(rows), run.material.labels[rows], known, min_positives=1)


def _within(progress: Progress, number: int, count: int) -> Progress:
    def told(stage: str, done: int, total: int) -> None:
        progress(f"{stage} (part {number + 1} of {count})", number * total + done, count * total)

    return told


def _tokens(material: TrainingSet) -> NDArray[np.float16]:
    if material.tokens is None:
        raise InputError("Tuning a head needs the images' tokens, and the training material has none.")
    return material.tokens


def _check(material: TrainingSet, groups: NDArray[np.int64], source: HeadSource, beside: Beside) -> None:
    tokens = _tokens(material)
    images = len(material)
    if images == 0 or len(groups) != images:
        raise InputError(f"Tuning got {images} images and {len(groups)} group numbers: one each, and at least one.")
    if len(source.entries) != len(material.tags):
        raise InputError(
            f"Tuning got {len(material.tags)} tags, and a head for {len(source.entries)}: the same are needed."
        )
    if tokens.ndim != 3 or tokens.shape[2] != source.config.token_width:
        raise InputError(f"Tuning got tokens {tokens.shape}, and the head takes width {source.config.token_width}.")
    teacher = beside.teacher
    if teacher is not None and (teacher.ndim != 2 or len(teacher) != images or not np.isfinite(teacher).all()):
        raise InputError("CLIP features for tuning have to be (N, d), a row for each image, and finite.")
