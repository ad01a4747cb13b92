"""Writer of the starter's source folder, which installing the bundle starts from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.bundle import TRAINING_IMAGES, file_sha256
from ram_backend.models.calibration import NEUTRAL
from ram_backend.models.starter.install import DESCRIPTION, HEAD_WEIGHTS
from ram_backend.vocabulary.tags import Vocabulary
from starter.card import model_card
from starter.data import TRAINING_SETS
from starter.fitting import Fitted
from starter.imagenet import FILE as CLASSES_FILE
from starter.mixing import TagCurves

if TYPE_CHECKING:
    from starter.build import BuildInputs


def write_source(
    out: Path, inputs: BuildInputs, fitted: Fitted, mixing: NDArray[np.float32], unseen: NDArray[np.float32],
    curves: TagCurves | None, seed: int,
) -> None:  # fmt: skip
    """Writes the folder file by file; starter.json, which names the others, comes last."""
    from safetensors.numpy import save_file

    out.mkdir(parents=True, exist_ok=True)
    count = len(inputs.vocabulary)
    save_file(
        {name: np.ascontiguousarray(array, dtype=np.float16) for name, array in fitted.head.items()}, out / HEAD_WEIGHTS
    )
    save_file(
        {"rows": inputs.material.embeddings.astype(np.float16), "counts": np.ones(count, dtype=np.int32)},
        out / "label_embeddings.safetensors",
    )
    save_file(
        {
            "class_embeddings": inputs.class_embeddings.astype(np.float16),
            "reference_classes": inputs.reference[0],
            "reference_values": inputs.reference[1],
            "classes": np.array([number for numbers in inputs.classes for number in numbers], dtype=np.int32),
            "class_counts": np.array([len(numbers) for numbers in inputs.classes], dtype=np.int32),
        },
        out / "prior.safetensors",
    )
    save_file(
        {
            "weight": np.ascontiguousarray(fitted.probes.weight, dtype=np.float16),
            "bias": fitted.probes.bias,
            "rows": fitted.probe_rows.astype(np.int32),
            "counts": fitted.probes.counts,
            "mixing": mixing,
        },
        out / "probes.safetensors",
    )
    ones, zeros = np.ones(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    slope, offset = (curves.slope, curves.offset) if curves else (ones, zeros)
    save_file({"slope": slope, "offset": offset}, out / "calibration.safetensors")
    Vocabulary(replace(tag, threshold=NEUTRAL) for tag in inputs.vocabulary).save(out / "vocabulary.json")
    hashes = {photo.sha256(): photo.perceptual_hash() for photo in inputs.photos}
    sums = sorted(hashes)
    lines = [f"{each} {hashes[each]:016x}\n" for each in sums]
    (out / TRAINING_IMAGES).write_text("".join(lines), encoding="utf-8")
    description = {
        "format": 1,
        "architecture": {
            "encoder": inputs.encoder_digest,
            "head": asdict(fitted.config),
            "mixing": {"unseen": dict(zip(("head", "probe", "prior"), map(float, unseen), strict=True))},
            "classes": file_sha256(CLASSES_FILE),
        },
        "preprocessing": asdict(inputs.preprocessing),
        "text_encoder_id": inputs.text_encoder_id,
        "new_tag_threshold": NEUTRAL,
        "new_tag_calibration": {"slope": curves.new.slope, "offset": curves.new.offset} if curves else {},
        "licence": "Apache-2.0; trained on photos under other terms, see MODEL_CARD.md",
        "provenance": {
            "sets": {name: sum(photo.set_name == name for photo in inputs.photos) for name in TRAINING_SETS},
            "training_images": hashlib.sha256("\n".join(sums).encode()).hexdigest(),
            "left_out_tags": [
                tag.name for tag, kept in zip(inputs.vocabulary, inputs.allowed, strict=True) if not kept
            ],
            "seed": seed,
            "calibrated": curves is not None,
        },
    }
    (out / "MODEL_CARD.md").write_text(model_card(description, out), encoding="utf-8")
    (out / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
