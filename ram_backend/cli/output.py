"""What the commands print about tags, and the arrays they write."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ram_backend.tagging.tagger import Tagger


@dataclass(frozen=True)
class Shown:
    """The tags to show for one image, best first: (tag, score, whether it is above its threshold)."""

    image: str
    model_version: str
    tags: tuple[tuple[str, float, bool], ...]


def shown_tags(
    path: Path,
    tagger: Tagger,
    scores: NDArray[np.float32],
    *,
    top: int | None,
    min_score: float | None,
    all_asked: bool,
) -> Shown:
    """Chooses which tags of an image are shown.

    Args:
        path: the image.
        tagger: whose tags and thresholds they are.
        scores: (L,) of that image.
        top: at most this many.
        min_score: those that score at least this.
        all_asked: every tag, where neither `top` nor `min_score` chooses; else those above their thresholds.
    """
    on = scores > tagger.thresholds
    if min_score is not None:
        chosen = scores >= min_score
    else:
        chosen = np.ones(len(scores), dtype=bool) if all_asked or top is not None else on
    order = [place for place in np.argsort(-scores, kind="stable") if chosen[place]][:top]
    picked = tuple((tagger.tags[place], float(scores[place]), bool(on[place])) for place in order)
    return Shown(image=str(path), model_version=tagger.model_version, tags=picked)


def print_json_line(shown: Shown) -> None:
    """One JSON object on one line of standard output."""
    tags = [{"tag": tag, "score": round(score, 6)} for tag, score, _ in shown.tags]
    line = json.dumps({"image": shown.image, "model_version": shown.model_version, "tags": tags}, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_table(
    rows: Sequence[Shown], *, title: str | None = None, nothing: str = "no tag above its threshold"
) -> None:
    """One row per image: file name with extension, and its tags with their scores, best first."""
    table = Table("image", "tags", title=title, title_justify="left", show_lines=True, expand=False)
    table.columns[0].overflow = "fold"
    below = False
    for row in rows:
        text = Text()
        for place, (tag, score, on) in enumerate(row.tags):
            text.append(", " if place else "")
            shown = f"{tag} {score:.2f}" if score >= 0.095 else f"{tag} {score:.3f}"
            text.append(shown if on else f"({shown})", style="bold" if on else "dim")
            below = below or not on
        table.add_row(Path(row.image).name, text if row.tags else Text(nothing, style="dim"))
    console = Console(highlight=False)
    console.print(table)
    if below:
        console.print("In brackets: below the tag's threshold.", style="dim")


class Arrays:
    """Collects logits and scores of images, and writes them as one .npz file."""

    def __init__(self, tags: Sequence[str], thresholds: NDArray[np.float32]) -> None:
        self._tags = tags
        self._thresholds = thresholds
        self._images: list[str] = []
        self._logits: list[NDArray[np.float32]] = []
        self._scores: list[NDArray[np.float32]] = []

    def add(self, path: Path, logits: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        """Adds one image: logits before calibration and calibrated scores, (L,) each."""
        self._images.append(str(path))
        self._logits.append(logits)
        self._scores.append(scores)

    def write(self, path: Path) -> None:
        """Writes `images` (N,), `tags` (L,), `logits` and `scores` (N, L) float32 and `thresholds` (L,) float32.

        The file appears whole or not at all.
        """
        shape = (len(self._images), len(self._tags))
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                np.savez(
                    file,
                    images=np.array(self._images, dtype=np.str_),
                    tags=np.array(self._tags, dtype=np.str_),
                    logits=np.array(self._logits, dtype=np.float32).reshape(shape),
                    scores=np.array(self._scores, dtype=np.float32).reshape(shape),
                    thresholds=self._thresholds,
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
