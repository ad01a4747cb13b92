"""Reader of official weight files: runs no code of theirs, maps their tensors, checks every key."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ram_backend.errors import CheckpointError
from ram_backend.models import official
from ram_backend.models.bundle import Kind
from ram_backend.models.ram import Architecture

_CHUNK = 1 << 22
_SHOWN = 8
_DOWNLOAD = "download it again, or give another file"


@dataclass(frozen=True)
class Checkpoint:
    """A checked official file: exactly the tensors that tagging needs, mapped from the file.

    Attributes:
        kind: which model it is.
        architecture: its numbers.
        descriptions: label embeddings per tag.
        weights: by official name, float32.
        captioner: tensors of the captioner by official name, float32, without second names of the same tensor; empty
            in RAM++.
        dropped: what else was in the file: entries beside the weights, second names of tensors, keys that a model
            computes itself, and unknown keys that were allowed.
    """

    kind: Kind
    architecture: Architecture
    descriptions: int
    weights: Mapping[str, Tensor]
    captioner: Mapping[str, Tensor]
    dropped: Mapping[str, Any]


def open_checkpoint(
    file: Path,
    tags: int,
    *,
    descriptions: int | None = None,
    image_size: int | None = None,
    allow_extra: bool = False,
) -> Checkpoint:
    """Opens an official file and checks its keys, shapes and types; values are checked by `check_finite`.

    Args:
        file: `.pth`, with the weights under "model" or at the top.
        tags: number of tags in the list that belongs to it.
        descriptions: label embeddings per tag in a RAM++ file; None: 51.
        image_size: side of the images it was trained for; None: 384.
        allow_extra: drop unknown keys instead of refusing the file.

    Raises:
        CheckpointError: names the file or the key, and what to do.
    """
    entries = _load(file)
    state, beside = _state_dict(file, entries)
    groups = _sort_keys(state)
    shapes = {key: tuple(tensor.shape) for key, tensor in groups.weights.items()}
    kind = official.detect_kind(shapes, tags, descriptions or official.DESCRIPTIONS_PER_TAG)
    if kind is None:
        raise CheckpointError(
            f"{file}: none of the keys of RAM, RAM++ or Tag2Text is in it (it has {_listed(list(state))}):"
            " give one of the authors' .pth files."
        )
    each = descriptions or official.DESCRIPTIONS_PER_TAG if kind == "ram_plus" else 1
    try:
        architecture = official.read_architecture(kind, shapes, tags, image_size or official.IMAGE_SIZE)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    expected = official.expected_shapes(kind, architecture, tags, each)
    _check_keys(file, kind, groups.weights, expected, tags=tags, descriptions=each, allow_extra=allow_extra)
    dropped = {
        "beside_weights": beside,
        "structural_keys": len(groups.structural),
        "tied_keys": groups.tied,
        "extra_keys": sorted(groups.weights.keys() - expected.keys()),
    }
    for key, tensor in groups.caption.items():
        _check_type(file, key, tensor)
    kept = {key: groups.weights[key] for key in expected}
    return Checkpoint(kind, architecture, each, kept, groups.caption, dropped)


def check_finite(file: Path, key: str, tensor: Tensor) -> None:
    """Refuses NaN and infinity; reads the tensor piece by piece.

    Raises:
        CheckpointError: names the key.
    """
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        if not torch.isfinite(flat[start : start + _CHUNK]).all():
            raise CheckpointError(f"{file}: key {key!r} holds NaN or infinity: {_DOWNLOAD}.")


@dataclass(frozen=True)
class _Groups:
    weights: dict[str, Tensor]
    structural: list[str]
    caption: dict[str, Tensor]
    tied: int = 0


def _load(file: Path) -> Any:
    """Unpickles with torch's list of harmless types only; tensors stay in the file where its format allows."""
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file: check the path.")
    with file.open("rb") as stream:
        start = stream.read(4)
    zipped = start == b"PK\x03\x04"
    if zipped and not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file}: the file ends early (a download that stopped?): {_DOWNLOAD}.")
    if not zipped and start[:1] != b"\x80":
        raise CheckpointError(f"{file}: not a file that torch.save writes: {_DOWNLOAD}.")
    try:
        return torch.load(file, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"wants to run {wanted[1]!r}" if wanted else "holds more than plain tensors"
        raise CheckpointError(
            f"{file}: refused, because the file {what}, and loading could run any code: give a file of plain weights"
            " (where you trust this one, load it elsewhere and save its state dict alone)."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: damaged or cut short ({first[:200]}): {_DOWNLOAD}.") from None


def _state_dict(file: Path, entries: Any) -> tuple[Mapping[str, Tensor], list[str]]:
    """The weights, which are under "model" or are the file; and the names of what is beside them."""
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{file}: holds a {type(entries).__name__} instead of named weights: {_DOWNLOAD}.")
    beside: list[str] = []
    state = entries
    if isinstance(entries.get("model"), Mapping):
        state = entries["model"]
        beside = sorted(str(key) for key in entries if key != "model")
    other = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"{file}: {other!r} is a {type(state[other]).__name__} and no tensor: weights are expected"
            " under 'model' or at the top."
        )
    return state, beside


def _sort_keys(state: Mapping[str, Tensor]) -> _Groups:
    weights: dict[str, Tensor] = {}
    structural: list[str] = []
    caption: dict[str, Tensor] = {}
    tied = 0
    for key, tensor in state.items():
        name = official.modern_name(key)
        if official.is_structural(name):
            structural.append(key)
        elif name.startswith(official.CAPTION_PREFIXES):
            if official.is_tied(name):
                tied += 1
            else:
                caption[name] = tensor
        elif name == key or name not in state:
            weights[name] = tensor
    return _Groups(weights, structural, caption, tied)


def _check_keys(
    file: Path,
    kind: Kind,
    weights: Mapping[str, Tensor],
    expected: Mapping[str, official.Shape],
    *,
    tags: int,
    descriptions: int,
    allow_extra: bool,
) -> None:
    missing = [key for key in expected if key not in weights]
    if missing:
        raise CheckpointError(
            f"{file}: looks like {kind}, but key {_listed(missing)} is missing: the file is incomplete; {_DOWNLOAD}."
        )
    label = official.label_key(kind)
    rows = tuple(weights[label].shape)
    if len(rows) == 2 and rows[0] != expected[label][0]:
        per_tag = f" ({descriptions} for each of {tags} tags)" if kind == "ram_plus" else ""
        remedy = ", or the number for each tag with --descriptions" if kind == "ram_plus" else ""
        raise CheckpointError(
            f"{file}: key {label!r} has {rows[0]} rows, the tag list asks for {expected[label][0]}{per_tag}:"
            f" give the tag list that belongs to this file{remedy}."
        )
    for key, shape in expected.items():
        _check_tensor(file, key, weights[key], shape)
    extra = sorted(weights.keys() - expected.keys())
    if extra and not allow_extra:
        raise CheckpointError(
            f"{file}: unknown key {_listed(extra)}: this may be another model; if not, --allow-extra drops them."
        )


def _check_tensor(file: Path, key: str, tensor: Tensor, shape: official.Shape) -> None:
    found = tuple(tensor.shape)
    if found != shape and key.endswith("relative_position_bias_table") and len(found) == 2:
        raise CheckpointError(
            f"{file}: key {key!r} has {found[0]} rows, {shape[0]} are needed: it was trained with attention windows of"
            f" another size, that is for other images (window 7: 224 pixels); give the file for"
            f" {official.IMAGE_SIZE} pixels, or its size with --image-size."
        )
    if found != shape:
        raise CheckpointError(f"{file}: key {key!r} has shape {found}, {shape} is needed: {_DOWNLOAD}.")
    _check_type(file, key, tensor)


def _check_type(file: Path, key: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise CheckpointError(
            f"{file}: key {key!r} is {str(tensor.dtype).removeprefix('torch.')}, float32 is needed:"
            " give the file as the authors publish it, or convert its tensors with .float() and save it again."
        )


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(repr(key) for key in keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown
