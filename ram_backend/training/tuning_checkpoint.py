"""What an interrupted run of tuning goes on from: one file, written whole after each epoch.

The file outlives its run, so that one of several trainings that belong together is not made again when a later one is
interrupted: it then says only what came out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.head_source import HeadSource
from ram_backend.training.tuning_data import Beside
from ram_backend.training.tuning_options import TuningOptions

FILE = "tuning.pt"


@dataclass
class Progressed:
    """How far a run is.

    Attributes:
        done: epochs that were run.
        best: the best epoch so far, 0: none.
        best_state: what learned, as it was then; empty for 0.
        history: per epoch from 0 on its figures.
    """

    done: int = 0
    best: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class Checkpoint:
    """The file of one run.

    Args:
        directory: made if it is not there.
        identity: see `fingerprint`: the file of another run is not gone on from.
    """

    def __init__(self, directory: Path, identity: str) -> None:
        self._path = directory / FILE
        self._identity = identity

    def save(self, progressed: Progressed, learning: dict[str, Any]) -> None:
        """Writes everything; a reader sees the old file or the new one.

        Args:
            progressed: how far the run is.
            learning: tensors and plain values: state of the head, the optimizer and so on; empty where the run is over.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        stored = {"identity": self._identity, "progressed": dict(vars(progressed)), "learning": learning}
        with partial.open("wb") as file:
            torch.save(stored, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def load(self, device: torch.device) -> tuple[Progressed, dict[str, Any]] | None:
        """What `save` wrote last; None where there is none, it is another run's, or it can't be read."""
        try:
            stored = torch.load(self._path, map_location=device, weights_only=True)
            if stored["identity"] != self._identity:
                return None
            return Progressed(**stored["progressed"]), stored["learning"]
        except Exception:  # a file that ends early raises whatever the unpickler meets: the run starts over
            return None


def remove_checkpoints(directory: Path) -> None:
    """Removes a folder of checkpoints with all that is in it; what can't be removed stays, the next run replaces it."""
    shutil.rmtree(directory, ignore_errors=True)


def fingerprint(
    options: TuningOptions,
    seed: int,
    material: TrainingSet,
    source: HeadSource,
    rows: NDArray[np.int64],
    watched: NDArray[np.int64],
    beside: Beside,
) -> str:
    """64 hex digits that name a run: equal where an interrupted run may be gone on with."""
    digest = hashlib.sha256()
    numbers = {"options": asdict(options), "seed": seed, "head": source.config.to_json(), "tags": material.tags}
    digest.update(json.dumps([numbers, material.content], sort_keys=True).encode())
    arrays = [material.labels, material.weights, material.base, rows, watched, source.scale]
    arrays += [source.tensors[name] for name in sorted(source.tensors)]
    for given in (beside.teacher, beside.also_seen):
        digest.update(f"{None if given is None else given.shape}".encode())
        arrays += [] if given is None else [given]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
