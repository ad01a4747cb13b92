"""Small versions to test with."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import Delta
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import Version, write_version
from ram_backend.versions.records import CorrectionsUsed, Lineage

KEY = ProjectKey("http://studio", 7, 1_795_452_148)
OTHER = ProjectKey("http://other", 7, 1_795_452_148)
BUNDLE = cast(Bundle, SimpleNamespace(name="colours", digest="d" * 64))
ACCEPT = {"outcome": "accept", "reason": "mAP rose from 0.50 to 0.60", "figures": {"map_before": 0.5}}
REJECT = {"outcome": "reject", "reason": "mAP fell from 0.50 to 0.40", "figures": {}}


def delta(bias: float = 0.0, tags: tuple[str, ...] = ("red", "green"), width: int = 3, **changes: Any) -> Delta:
    ones = np.ones(len(tags))
    weight = np.full((len(tags), width), 0.25)
    return Delta(tags, **{"base_scale": ones, "weight": weight, "bias": bias * ones, "thresholds": ones / 2, **changes})


def lineage(parent: str | None = None, **changes: Any) -> Lineage:
    facts: dict[str, Any] = {
        "parent": parent,
        "bundle": "colours",
        "bundle_digest": "d" * 64,
        "encoder_id": "mean-colour",
        "corrections": CorrectionsUsed(100, 3, 250, 260, "c" * 64, withdrawn=2, added=40),
        "recipe": "residual",
        "params": {"ridge": 1.5},
        "seed": 4,
        "metrics_before": {"map": 0.5},
        "metrics_after": {"map": 0.6},
        "gate_share": 0.3,
        "code_version": "0.1",
        "created_at": datetime(2026, 11, 23, 16, tzinfo=UTC),
    }
    return Lineage(**{**facts, **changes})


def write(
    folder: Path,
    bias: float = 0.0,
    *,
    key: ProjectKey = KEY,
    parent: str | None = None,
    verdict: dict[str, Any] = ACCEPT,
    **more: Any,
) -> Version:
    files = more.pop("files", {})
    first = more.pop("first_number", 1)
    return write_version(folder, key, delta(bias, **more), files, lineage(parent=parent), verdict, first_number=first)


def write_and_die(folder: Path, at: int) -> None:
    """Writes a version in a process that is killed when it has made so many files safe."""
    real, calls = os.fsync, [0]

    def deadly(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = deadly  # type: ignore[assignment]
    write(folder, 9.0)
