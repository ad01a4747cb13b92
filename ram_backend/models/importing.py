"""Import of an official weight file and its tag list as a bundle, with all of its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ram_backend import __version__
from ram_backend.errors import CheckpointError
from ram_backend.models import label_embeddings, official
from ram_backend.models.bundle import (
    CAPTIONER,
    NETWORK,
    VOCABULARY,
    Bundle,
    Kind,
    check_new_name,
    digest_of,
    file_sha256,
    new_bundle,
    open_bundle,
)
from ram_backend.models.checkpoints import Checkpoint, check_finite, open_checkpoint
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.vocabulary.tags import Vocabulary

DEFAULT_THRESHOLD = 0.68
"""The authors' threshold where there is none per tag."""

TAG2TEXT_TAGS = 3429
TAG2TEXT_THRESHOLDS = {2701: 0.7, 2828: 0.7, 1167: 0.7}
"""The authors' exceptions in Tag2Text's list: person, man, woman."""

TAG2TEXT_DELETED = (127, 2961, 3351, 3265, 3338, 3355, 3359)
"""Tags that the authors switch off in Tag2Text's list: quarter, back, two, three, four, five, one."""

NEW_TAG_THRESHOLD = 0.5
NEVER = 1.0
"""A threshold that no score is strictly above."""

LICENCE = "Apache-2.0, as the authors publish RAM, RAM++ and Tag2Text; a file from elsewhere may have other terms"


def import_checkpoint(
    file: Path,
    tags: Path,
    *,
    thresholds: Path | None = None,
    name: str,
    bundles_dir: Path,
    allow_extra: bool = False,
    descriptions: int | None = None,
    image_size: int | None = None,
    origin: dict[str, Any] | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Bundle:
    """Converts an official file of RAM, RAM++ or Tag2Text.

    The tensors stay in the file until they are written, so memory stays far below the size of the weights. Either the
    whole bundle is there afterwards, or nothing.

    Args:
        file: `.pth`, as the authors publish it or their trainer saves it.
        tags: its tag list, one a line.
        thresholds: one number a line; None: 0.68 for every tag, and for Tag2Text the authors' exceptions.
        name: of the new bundle.
        bundles_dir: where bundles live.
        allow_extra: drop keys that nobody knows instead of refusing the file.
        descriptions: label embeddings per tag in a RAM++ file; None: 51.
        image_size: side of the images that the network was trained for; None: 384.
        origin: where the files came from, kept in the provenance.
        progress: told in a few words what is being done.

    Raises:
        CheckpointError: the file can't be used or the name is taken; names file or key, and the remedy.
        VocabularyError: the tag list or the thresholds can't be used; names the file and the line.
    """
    say = progress or (lambda _: None)
    check_new_name(bundles_dir, name)
    say(f"Checking {file.name}")
    plain = Vocabulary.from_files(tags, thresholds)
    checkpoint = open_checkpoint(
        file, len(plain), descriptions=descriptions, image_size=image_size, allow_extra=allow_extra
    )
    vocabulary = _vocabulary(checkpoint.kind, tags, thresholds, len(plain))
    preprocessing = Preprocessing(size=checkpoint.architecture.encoder.image_size)
    say(f"Computing the checksum of {file.name}")
    sources = {"checkpoint": _source(file), "tags": _source(tags)}
    if thresholds is not None:
        sources["thresholds"] = _source(thresholds)
    architecture = asdict(checkpoint.architecture)
    manifest: dict[str, Any] = {
        "kind": checkpoint.kind,
        "digest": digest_of(
            checkpoint.kind, architecture, preprocessing, {role: entry["sha256"] for role, entry in sources.items()}
        ),
        "architecture": architecture,
        "preprocessing": preprocessing.to_json(),
        "text_encoder": None if checkpoint.kind == "tag2text" else "clip-vit-b-16",
        "new_tag_threshold": NEW_TAG_THRESHOLD,
        "licence": LICENCE,
        "provenance": {
            "sources": sources,
            "origin": origin,
            "dropped": dict(checkpoint.dropped),
            "captioner_keys": len(checkpoint.captioner),
            "deleted_tags": list(TAG2TEXT_DELETED)
            if _is_released_list(checkpoint.kind, len(plain), thresholds)
            else [],
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "ram_backend": __version__,
        },
    }
    with new_bundle(bundles_dir, name, manifest) as directory:
        vocabulary.save(directory / VOCABULARY)
        say("Writing the weights")
        _write_tensors(file, checkpoint, directory, tags=len(plain))
        say("Computing the bundle's checksums")
    return open_bundle(bundles_dir / name)


def _is_released_list(kind: Kind, tags: int, thresholds: Path | None) -> bool:
    return kind == "tag2text" and tags == TAG2TEXT_TAGS and thresholds is None


def _vocabulary(kind: Kind, tags: Path, thresholds: Path | None, count: int) -> Vocabulary:
    exceptions = {}
    if _is_released_list(kind, count, thresholds):
        exceptions = {**TAG2TEXT_THRESHOLDS, **dict.fromkeys(TAG2TEXT_DELETED, NEVER)}
    return Vocabulary.from_files(
        tags, thresholds, default_threshold=DEFAULT_THRESHOLD, threshold_by_index=exceptions, source=kind
    )


def _source(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _write_tensors(file: Path, checkpoint: Checkpoint, directory: Path, *, tags: int) -> None:
    """Writes the weight files; safetensors copies from the mapped file straight into the new ones."""
    network: dict[str, Tensor] = {}
    names = official.our_names(checkpoint.kind, checkpoint.architecture)
    for key, tensor in {**checkpoint.weights, **checkpoint.captioner}.items():
        check_finite(file, key, tensor)
        if key in names:
            network[names[key]] = _alone(tensor[0] if key in official.PER_TAG_CLASSIFIER else tensor)
    counts = torch.full((tags,), checkpoint.descriptions, dtype=torch.int32)
    labels = {"rows": _alone(checkpoint.weights[official.label_key(checkpoint.kind)]), "counts": counts}
    try:
        save_file(network, directory / NETWORK)
        save_file(labels, directory / label_embeddings.FILE)
        if checkpoint.captioner:
            save_file({key: _alone(tensor) for key, tensor in checkpoint.captioner.items()}, directory / CAPTIONER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory.parent}: no room for the bundle ({error}): make some, or set RAM_DATA_DIR."
        ) from None


def _alone(tensor: Tensor) -> Tensor:
    """The tensor itself where it fills its storage, as usual; a copy where it is a part of a larger one."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
