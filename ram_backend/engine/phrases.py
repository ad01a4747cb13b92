"""Labels by prompt: phrase scores calibrated by an empirical null (Efron 2004), their predictions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import ScoredChoice, brush_rle, prediction
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.schema import LabelSchema, look_up
from ram_backend.models.calibration import NEUTRAL, Calibration
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.tagging.subset import whole_vocabulary
from ram_backend.tagging.tagger import Tagger

FALSE_RATE = 0.001
"""Share of absent tags that would score as high as a phrase that is on, per photo."""
ABSENT_SHARE = 0.1
"""Below this share of its threshold a tag of the vocabulary counts as absent."""
NULL_STRIDE = 4
"""Every fourth tag of the vocabulary is in the null."""


def calibrate_phrases(tagger: Tagger, background: NDArray[np.float32]) -> Tagger:
    """The tagger with new offsets for new tags, and `NEUTRAL` as their threshold.

    A phrase is compared with itself on background photos: what counts is its
    logit less its mean over them. The null is the same number of tags of
    the vocabulary, embedded as if they were phrases, over the background photos
    that don't show them (each left out of its own mean). A phrase scores
    `NEUTRAL` where `FALSE_RATE` of the null is above it.

    Args:
        tagger: of any tags; those of the vocabulary stay as they are.
        background: tokens (B, T, D) of B >= 2 photos of many things.
    """
    new = np.array([not isinstance(entry, int) for entry in tagger.subset.entries])
    if not new.any():
        return tagger
    bundle, network, subset = tagger.bundle, tagger.network, tagger.subset
    known = Tagger(bundle, network, whole_vocabulary(bundle))
    absent = (known.score(background).scores < ABSENT_SHARE * known.thresholds)[:, ::NULL_STRIDE]
    texts = LabelEmbeddings.open(bundle.path).means(range(0, len(bundle.vocabulary), NULL_STRIDE))
    logits = network.logits(background, network.select([text[None] for text in texts]))
    null = (logits - (logits.sum(axis=0) - logits) / (len(logits) - 1))[absent]
    centre = tagger.score(background).logits.mean(axis=0) + np.quantile(null, 1 - FALSE_RATE)
    given = subset.calibration
    calibration = Calibration(given.slope, np.where(new, -given.slope * centre, given.offset))
    thresholds = np.where(new, np.float32(NEUTRAL), subset.thresholds)
    identity = f"{subset.text_identity} null {FALSE_RATE}"
    subset = replace(subset, calibration=calibration, thresholds=thresholds, text_identity=identity)
    return Tagger(bundle, network, subset)


def schema_with(api: ProjectApi, phrases: Iterable[str]) -> LabelSchema:
    """The schema of a project's label config; InputError where it lacks a phrase."""
    schema = parse_label_config(api.settings().label_config)
    offered = {text for control in schema.tag_controls for choice in control.choices for text in choice.names}
    if missing := [phrase for phrase in phrases if phrase not in offered]:
        listed = ", ".join(map(repr, missing))
        raise InputError(f"The label config of project {api.project_id} has no {listed}: add these labels to it.")
    return schema


def push_labels(
    api: ProjectApi,
    schema: LabelSchema,
    found: Iterable[tuple[Path, tuple[int, int], Mapping[str, Any]]],
    tasks: Mapping[Path, int],
) -> None:
    """Writes predictions; photos that the project lacks by file name are uploaded.

    Args:
        api: of the project.
        schema: of its label config.
        found: per photo its size and its record with `tags`, `regions` and
            `model_version`.
        tasks: of photos that are known to be a task's; empty: none is.
    """
    listed = () if tasks else api.all_tasks()
    references = ((task.id, str(look_up(task.data, path))) for task in listed for path in schema.images.values())
    names = {_stored_name(reference): task for task, reference in references}
    for path, size, record in found:
        task = tasks.get(path) or names.get(_stored_name(path.name))
        if task is None:
            address = f"/api/projects/{api.project_id}/import?return_task_ids=true"
            task = int(api.label_studio.upload(address, [path])["task_ids"][0])
        scores = {each["tag"]: each["score"] for each in record["tags"]}
        scored, boxes = {}, {}
        for control in schema.tag_controls:
            named = [(next((name for name in each.names if name in scores), ""), each) for each in control.choices]
            scored[control.name] = [ScoredChoice(each, scores.get(name, 0.0), 0.0) for name, each in named]
            shape = "mask" if control.kind == "brushlabels" else "box"
            boxes[control.name] = {
                each.value: [
                    (r["score"], _shape(r[shape])) for r in record["regions"] if r["tag"] == name and shape in r
                ]
                for name, each in named
            }
        sizes, version = dict.fromkeys(schema.images, size), record["model_version"]
        made = prediction(schema, scored, model_version=version, image_sizes=sizes, boxes=boxes)
        api.add_prediction(task, made)


def _shape(found: Any) -> Any:
    """A box as it is, a mask from COCO's run lengths to Label Studio's."""
    if not isinstance(found, Mapping):
        return tuple(found)
    height, width = found["size"]
    flat = np.repeat(np.arange(len(found["counts"])) % 2 == 1, found["counts"])
    return brush_rle(flat.reshape(width, height).T)


def _stored_name(reference: str) -> str:
    """A file's name as Label Studio stores it, without its prefix."""
    name = re.sub(r"[^-\w.]", "", unquote(reference).rpartition("/")[2].strip().replace(" ", "_"))
    return re.sub(r"^[0-9a-f]{8}-", "", name)
