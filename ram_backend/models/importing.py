"""Import of an official weight file; no code of it runs."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ram_backend import __version__
from ram_backend.errors import CheckpointError, first_line, listed
from ram_backend.models import label_embeddings, official
from ram_backend.models.bundle import (
    CAPTIONER,
    NETWORK,
    VOCABULARY,
    Bundle,
    BundleKind,
    bundle_digest,
    check_new_name,
    file_sha256,
    new_bundle,
    open_bundle,
)
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.ram import Architecture
from ram_backend.vocabulary.tags import Vocabulary

DEFAULT_THRESHOLD = 0.68
"""The authors' threshold where there is none per tag."""

TAG2TEXT_TAGS = 3429
TAG2TEXT_THRESHOLDS = {2701: 0.7, 2828: 0.7, 1167: 0.7}
"""The authors' exceptions in Tag2Text's list: person, man, woman."""

TAG2TEXT_DELETED = (127, 2961, 3351, 3265, 3338, 3355, 3359)
"""Tags that the authors switched off in Tag2Text: quarter, back, one to five."""

NEW_TAG_THRESHOLD = 0.5

_SHOWN = 8
_DOWNLOAD = "download it again, or give another file"

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
    """Converts an official file of RAM, RAM++ or Tag2Text, whole or not at all.

    The tensors stay in the file until they are written: memory stays far below
    the size of the weights.

    Args:
        file: `.pth`, weights under "model" (as the authors publish it) or at
            the top.
        tags: its tag list, one a line.
        thresholds: one number a line; None: 0.68 for every tag, and for
            Tag2Text the authors' exceptions.
        name: of the new bundle.
        bundles_dir: where bundles live.
        allow_extra: drop unknown keys instead of refusing the file.
        descriptions: label embeddings per tag in a RAM++ file; None: 51.
        image_size: side of the images that it was trained for; None: 384.
        origin: where the files came from, kept in the provenance.
        progress: gets each step in a few words.

    Raises:
        CheckpointError: the file can't be used or the name is taken.
        VocabularyError: the tag list or the thresholds can't be used.
    """
    say = progress or (lambda _: None)
    check_new_name(bundles_dir, name)
    say(f"Checking {file.name}")
    plain = Vocabulary.from_files(tags, thresholds, default_threshold=DEFAULT_THRESHOLD)
    try:
        checkpoint = _checked(
            _load(file),
            len(plain),
            descriptions or official.DESCRIPTIONS_PER_TAG,
            image_size or official.IMAGE_SIZE,
            allow_extra,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    special = {}
    if checkpoint.kind == "tag2text" and len(plain) == TAG2TEXT_TAGS and thresholds is None:
        special = {**TAG2TEXT_THRESHOLDS, **dict.fromkeys(TAG2TEXT_DELETED, 1.0)}  # no score is above 1
    vocabulary = Vocabulary(
        replace(tag, threshold=special.get(row, tag.threshold), sources=(checkpoint.kind,))
        for row, tag in enumerate(plain)
    )
    preprocessing = Preprocessing(size=checkpoint.architecture.encoder.image_size)
    say(f"Computing the checksum of {file.name}")
    files = {"checkpoint": file, "tags": tags} | ({} if thresholds is None else {"thresholds": thresholds})
    sources = {role: file_sha256(path) for role, path in files.items()}
    architecture = asdict(checkpoint.architecture)
    manifest: dict[str, Any] = {
        "kind": checkpoint.kind,
        "digest": bundle_digest(checkpoint.kind, architecture, preprocessing, sources),
        "architecture": architecture,
        "preprocessing": asdict(preprocessing),
        "text_encoder": None if checkpoint.kind == "tag2text" else "clip-vit-b-16",
        "new_tag_threshold": NEW_TAG_THRESHOLD,
        "licence": LICENCE,
        "provenance": {
            "sources": {
                role: {"file": path.name, "sha256": sources[role], "bytes": path.stat().st_size}
                for role, path in files.items()
            },
            "origin": origin,
            "dropped": dict(checkpoint.dropped),
            "captioner_keys": len(checkpoint.captioner),
            "deleted_tags": list(TAG2TEXT_DELETED) if special else [],
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


@dataclass(frozen=True)
class _Checkpoint:
    """A checked official file: its float32 tensors by official name."""

    kind: BundleKind
    architecture: Architecture
    descriptions: int
    weights: Mapping[str, Tensor]
    captioner: Mapping[str, Tensor]
    dropped: Mapping[str, Any]


def _load(file: Path) -> Any:
    """Unpickles harmless types only; tensors stay in the file where it allows."""
    if not file.is_file():
        raise CheckpointError("there is no such file: check the path.")
    with file.open("rb") as stream:
        start = stream.read(4)
    zipped = start == b"PK\x03\x04"
    if not zipped and start[:1] != b"\x80":
        raise CheckpointError(f"not a file that torch.save writes: {_DOWNLOAD}.")
    try:
        return torch.load(file, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"wants to run {wanted[1]!r}" if wanted else "holds more than plain tensors"
        raise CheckpointError(
            f"refused, because the file {what}, and loading could run any code: give a file of plain weights"
            " (where you trust this one, load it elsewhere and save its state dict alone)."
        ) from None
    except Exception as error:  # torch, pickle and zip have many kinds
        raise CheckpointError(f"damaged or cut short ({first_line(error)}): {_DOWNLOAD}.") from None


def _checked(entries: Any, tags: int, descriptions: int, image_size: int, allow_extra: bool) -> _Checkpoint:
    others: list[str] = []
    state = entries
    if isinstance(entries, Mapping) and isinstance(entries.get("model"), Mapping):
        state, others = entries["model"], sorted(str(key) for key in entries if key != "model")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"holds no named tensors under 'model' or at the top: {_DOWNLOAD}.")
    older = {key.replace("vision_multi", "tagging_head"): tensor for key, tensor in state.items()}
    parts: dict[official.Part, dict[str, Tensor]] = {"tagging": {}, "captioner": {}, "structural": {}, "tied": {}}
    for key, tensor in {**older, **{key: state[key] for key in older if key in state}}.items():
        parts[official.part_of(key)][key] = tensor
    weights, captioner = parts["tagging"], parts["captioner"]
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    kind = official.detect_kind(shapes, tags, descriptions)
    if kind is None:
        raise CheckpointError(f"has none of the models' keys ({listed(list(state), _SHOWN, repr)}): {_DOWNLOAD}.")
    each = descriptions if kind == "ram_plus" else 1
    architecture = official.read_architecture(kind, shapes, tags, image_size)
    expected = official.expected_shapes(kind, architecture, tags, each)
    missing = [key for key in expected if key not in weights]
    if missing:
        raise CheckpointError(f"looks like {kind}, but key {listed(missing, _SHOWN, repr)} is missing: {_DOWNLOAD}.")
    label = official.label_key(kind)
    if shapes[label][:1] != expected[label][:1]:
        per_tag = f" ({each} for each of {tags} tags)" if kind == "ram_plus" else ""
        remedy = ", or the number for each tag with --descriptions" if kind == "ram_plus" else ""
        raise CheckpointError(
            f"key {label!r} has {len(weights[label])} rows, the tag list asks for {expected[label][0]}{per_tag}:"
            f" give the tag list that belongs to this file{remedy}."
        )
    for key, shape in expected.items():
        found = shapes[key]
        if found != shape and key.endswith("relative_position_bias_table") and len(found) == 2:
            raise CheckpointError(
                f"key {key!r} has {found[0]} rows, {shape[0]} are needed: it was trained for images of another size"
                " (window 7: 224 pixels), to be given with --image-size."
            )
        if found != shape:
            raise CheckpointError(f"key {key!r} has shape {found}, {shape} is needed: {_DOWNLOAD}.")
    for key, tensor in {**{key: weights[key] for key in expected}, **captioner}.items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"key {key!r} is {tensor.dtype}, float32 is needed: save it after .float().")
    extra = sorted(weights.keys() - expected.keys())
    if extra and not allow_extra:
        raise CheckpointError(f"unknown key {listed(extra, _SHOWN, repr)}: --allow-extra drops it.")
    computed = {"structural_keys": len(parts["structural"]), "tied_keys": len(parts["tied"])}
    dropped = {**computed, "beside_weights": others, "extra_keys": extra}
    return _Checkpoint(kind, architecture, each, {key: weights[key] for key in expected}, captioner, dropped)


def _write_tensors(file: Path, checkpoint: _Checkpoint, directory: Path, *, tags: int) -> None:
    """Writes the weight files, from the mapped file straight into the new ones."""
    network: dict[str, Tensor] = {}
    names = official.our_names(checkpoint.kind, checkpoint.architecture)
    for key, tensor in {**checkpoint.weights, **checkpoint.captioner}.items():
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(f"{file}: key {key!r} holds NaN or infinity: {_DOWNLOAD}.")
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
        raise CheckpointError(f"{directory.parent}: no room ({error}): make some, or set RAM_DATA_DIR.") from None


def _alone(tensor: Tensor) -> Tensor:
    """The tensor itself where it fills its storage, else a copy."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
