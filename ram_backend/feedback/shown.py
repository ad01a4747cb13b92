"""Value objects and JSON codec of shown predictions and their images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from ram_backend.labelstudio.annotations import ChoiceId, canonical_json, caption_in, read_items, ticked_paths
from ram_backend.labelstudio.predictions import ScoredChoice
from ram_backend.labelstudio.schema import LabelSchema


@dataclass(frozen=True)
class ShownChoice:
    """One choice of a served prediction.

    Attributes:
        path: of the choice; of a flat one (its value,).
        score: calibrated probability in [0, 1]; None: not known.
        ticked: whether the prediction ticked it.
    """

    control: str
    path: ChoiceId
    score: float | None
    ticked: bool


@dataclass(frozen=True)
class ShownImage:
    """One image when it was tagged.

    Attributes:
        to_name: name of the image in the label config.
        reference: where it is, as the task's data says.
        sha256: of its bytes, in hex.
        phash: perceptual hash, 64 bits.
    """

    to_name: str
    reference: str
    sha256: str
    phash: int


@dataclass(frozen=True)
class ShownPrediction:
    """One prediction for one task, as an annotator saw it.

    Attributes:
        shown_at: when it was served, or made.
        choices: the ticked ones, and others whose scores are known.
        version: the project's version that made it; None: the bundle's base, or
            not known.
        prediction_id: Label Studio's id; None: not known.
        source: "served" by us, or found in a "listing" of Label Studio.
    """

    task_id: int
    model_version: str
    shown_at: datetime
    choices: tuple[ShownChoice, ...] = ()
    images: tuple[ShownImage, ...] = ()
    version: str | None = None
    prediction_id: int | None = None
    source: Literal["served", "listing"] = "served"

    def choices_json(self) -> str:
        """Control name -> [[path, score, ticked], ...]."""
        rows: dict[str, list[list[object]]] = {}
        for each in self.choices:
            score = None if each.score is None else round(float(each.score), 6)
            rows.setdefault(each.control, []).append([list(each.path), score, int(each.ticked)])
        return canonical_json(rows)

    def images_json(self) -> str:
        """[[name, reference, sha256, perceptual hash], ...] without long references."""
        places = [each.reference if len(each.reference) <= 2000 else "" for each in self.images]
        rows = zip(self.images, places, strict=True)
        return canonical_json([[each.to_name, place, each.sha256, f"{each.phash:016x}"] for each, place in rows])


def shown_of(
    schema: LabelSchema,
    task_id: int,
    prediction: Mapping[str, Any],
    scored: Mapping[str, Sequence[ScoredChoice]],
    images: Sequence[ShownImage],
    version: str | None,
) -> ShownPrediction:
    """What one prediction, in Label Studio's shape, shows now.

    `scored`: by control, all choices whose scores are known. `version`: name of
    the project's version; None: the bundle's base.
    """
    choices: list[ShownChoice] = []
    items = read_items(prediction["result"])
    for control in schema.tag_controls:
        ticked = ticked_paths(control, items)
        for one in scored.get(control.name, ()):
            path = (one.choice.value,) if control.nesting == "flat" else one.choice.path
            choices.append(ShownChoice(control.name, path, one.score, path in ticked))
    for caption in schema.captions:
        if text := caption_in(caption, items):
            choices.append(ShownChoice(caption, (text,), None, True))
    return ShownPrediction(
        task_id=task_id,
        model_version=prediction["model_version"],
        shown_at=datetime.now(UTC),
        choices=tuple(choices),
        images=tuple(images),
        version=version,
    )


ImageHashes = Mapping[tuple[int, str], tuple[str, int]]
"""SHA-256 and perceptual hash of images of tasks, by `image_key`."""


def image_key(task_id: int, reference: str | None) -> tuple[int, str]:
    """Names an image of a task by the digest of its reference."""
    return task_id, sha256((reference or "").encode("utf-8", "replace")).hexdigest()


def read_choices(text: str) -> tuple[ShownChoice, ...]:
    """Reads what `choices_json` wrote."""
    return tuple(
        ShownChoice(control, tuple(path), score, bool(ticked))
        for control, rows in json.loads(text).items()
        for path, score, ticked in rows
    )


def read_images(text: str) -> tuple[ShownImage, ...]:
    """Reads what `images_json` wrote."""
    return tuple(
        ShownImage(name, reference, digest, int(phash, 16)) for name, reference, digest, phash in json.loads(text)
    )
