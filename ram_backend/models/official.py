"""Key names and shapes of the authors' weight files, and our names of them.

Shapes are read off our own network on torch's meta device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

import torch

from ram_backend.errors import CheckpointError
from ram_backend.models.bundle import BundleKind
from ram_backend.models.head import HeadConfig
from ram_backend.models.ram import Architecture, SwinConfig, TaggingNetwork

Shape = tuple[int, ...]
Part = Literal["tagging", "captioner", "structural", "tied"]

IMAGE_SIZE = 384
DESCRIPTIONS_PER_TAG = 51
"""Rows per tag in RAM++'s label embeddings."""

HEADS = 4
"""Attention heads of the tagging head in all three models; no shape reveals them."""

_TIED = re.compile(
    r"tag_encoder\.encoder\.layer\.[01]\.(crossattention|intermediate|output)\.|text_decoder\.cls\.predictions\.decoder\."
)
PER_TAG_CLASSIFIER = ("fc.W", "fc.b")
"""Tag2Text's classifier; both tensors have a leading axis of length 1."""

_STRUCTURAL = ("relative_position_index", "attn_mask", "position_ids")
_SWIN = "visual_encoder"
_LAYER = "tagging_head.encoder.layer"


def part_of(key: str) -> Part:
    """Which part of a model a tensor is in; structural ones are computed.

    Tied ones are second names: the tag encoder shares layers 0 and 1, but for
    self-attention, with the tagging head, and the decoder its last layer.
    """
    if any(part in key for part in _STRUCTURAL):
        return "structural"
    if _TIED.match(key):
        return "tied"
    return "captioner" if key.startswith(("tag_encoder.", "text_decoder.")) else "tagging"


def label_key(kind: BundleKind) -> str:
    """Where the label embeddings are."""
    return "label_embed.weight" if kind == "tag2text" else "label_embed"


def detect_kind(shapes: Mapping[str, Shape], tags: int, descriptions: int = DESCRIPTIONS_PER_TAG) -> BundleKind | None:
    """Which model a file holds by its keys and number of label embeddings, or None."""
    if "reweight_scale" in shapes:
        return "ram_plus"
    if {"fc.W", "fc.b", "label_embed.weight"} & shapes.keys():
        return "tag2text"
    if shapes.get("label_embed", (0,))[:1] == (descriptions * tags,) and descriptions > 1:
        return "ram_plus"
    known = ("label_embed", "wordvec_proj.", "image_proj.", "tagging_head.", f"{_SWIN}.")
    return "ram" if any(key.startswith(known) for key in shapes) else None


def read_architecture(kind: BundleKind, shapes: Mapping[str, Shape], tags: int, image_size: int) -> Architecture:
    """The numbers of a network, from its shapes; CheckpointError: these fit none."""
    try:
        return Architecture(
            _read_encoder(shapes, image_size, projected=kind != "tag2text"),
            _read_head(shapes, tags, projected=kind != "tag2text"),
            reweight=kind == "ram_plus",
        )
    except KeyError as error:
        raise CheckpointError(f"key {error.args[0]!r} is missing: give a whole official file.") from None
    except (ValueError, ZeroDivisionError, IndexError) as error:
        raise CheckpointError(f"its shapes fit no {kind} network ({error}): give an official file.") from None


def _read_encoder(shapes: Mapping[str, Shape], image_size: int, *, projected: bool) -> SwinConfig:
    stages = _count(shapes, rf"{_SWIN}\.layers\.(\d+)\.")
    table = "attn.relative_position_bias_table"
    embed, _, patch, _ = shapes[f"{_SWIN}.patch_embed.proj.weight"]
    return SwinConfig(
        image_size=image_size,
        patch=patch,
        embed=embed,
        depths=tuple(_count(shapes, rf"{_SWIN}\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)),
        heads=tuple(shapes[f"{_SWIN}.layers.{stage}.blocks.0.{table}"][1] for stage in range(stages)),
        window=max(1, image_size // (patch * 2 ** (stages - 1))),
        mlp_ratio=shapes[f"{_SWIN}.layers.0.blocks.0.mlp.fc1.weight"][0] / embed,
        projection=shapes["image_proj.weight"][0] if projected else None,
    )


def _read_head(shapes: Mapping[str, Shape], tags: int, *, projected: bool) -> HeadConfig:
    hidden, width = shapes[f"{_LAYER}.0.crossattention.self.key.weight"]
    return HeadConfig(
        token_width=width,
        hidden=hidden,
        heads=HEADS,
        layers=_count(shapes, rf"{re.escape(_LAYER)}\.(\d+)\."),
        intermediate=shapes[f"{_LAYER}.0.intermediate.dense.weight"][0],
        label_width=shapes["wordvec_proj.weight"][1] if projected else None,
        project=projected,
        classifier="shared" if projected else "per_tag",
        tags=None if projected else tags,
    )


def _count(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for match in map(re.compile(pattern).match, names) if match), default=0)


def expected_shapes(kind: BundleKind, architecture: Architecture, tags: int, descriptions: int) -> dict[str, Shape]:
    """Every key that a file must hold for tagging, with its shape."""
    ours = _our_shapes(architecture)
    shapes = {key: ours[name] for key, name in our_names(kind, architecture).items()}
    shapes |= {key: (1, *shapes[key]) for key in PER_TAG_CLASSIFIER if key in shapes}
    rows = tags * descriptions if architecture.reweight else tags
    return shapes | {label_key(kind): (rows, architecture.head.query_input_width)}


@lru_cache(maxsize=8)
def our_names(kind: BundleKind, architecture: Architecture) -> dict[str, str]:
    """Official key to name in our state dict (label embeddings excepted)."""
    return {_official_name(kind, name): name for name in _our_shapes(architecture)}


@lru_cache(maxsize=8)
def _our_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Shapes of our state dict."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in TaggingNetwork(architecture).state_dict().items()}


HEAD_PARTS = {
    **{part: f"crossattention.self.{part}" for part in ("query", "key", "value")},
    "attention_output": "crossattention.output.dense",
    "attention_norm": "crossattention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _official_name(kind: BundleKind, name: str) -> str:
    """Inverse of `our_names` for one key."""
    if name.startswith("encoder.swin."):
        # timm merges patches at the start of a stage, the official code at the end
        merging = re.compile(r"^layers\.(\d+)\.downsample")
        rest = merging.sub(lambda at: f"layers.{int(at[1]) - 1}.downsample", name.removeprefix("encoder.swin."))
        return f"{_SWIN}.{rest}"
    if name.startswith("head.layers."):
        _, _, layer, part, value = name.split(".")
        return f"{_LAYER}.{layer}.{HEAD_PARTS[part]}.{value}"
    if kind == "tag2text" and name.startswith("head.classifier."):
        return "fc.W" if name.endswith("weight") else "fc.b"
    renamed = {"encoder.projection": "image_proj", "head.projection": "wordvec_proj", "head.classifier": "fc"}
    module, _, value = name.rpartition(".")
    return f"{renamed[module]}.{value}" if module in renamed else name
