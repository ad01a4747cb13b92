"""Official-looking weight files of a few hundred kilobytes: the official key names, small widths, drawn values."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from models import reference
from torch import Tensor
from transformers import BertConfig

from ram_backend.models.bundle import Bundle
from ram_backend.models.captioner import Captioner
from ram_backend.models.head import HeadConfig
from ram_backend.models.importing import import_checkpoint
from ram_backend.models.official import expected_shapes
from ram_backend.models.ram import Architecture, SwinConfig

KINDS = ("ram", "ram_plus", "tag2text")
IMAGE = 64
DEPTHS = (2, 2, 2)
WINDOW = 4
EMBED = 16
SWIN_HEADS = (2, 4, 8)
HIDDEN = 32
INNER = 48
WIDTH = 24
TAGS = ("cat", "dog", "red car", "sit", "sitting", "zebra crossing", "sky")
EACH = 3

_SWIN_L = SwinConfig(384, 4, 192, (2, 2, 18, 2), (6, 12, 24, 48), 12, projection=512)
_SWIN_B = SwinConfig(384, 4, 128, (2, 2, 18, 2), (4, 8, 16, 32), 12)
_HEAD = HeadConfig(512, 768, 4, 2, 3072, label_width=512)
RELEASED = {
    "ram": Architecture(_SWIN_L, _HEAD),
    "ram_plus": Architecture(_SWIN_L, _HEAD, reweight=True),
    "tag2text": Architecture(
        _SWIN_B, HeadConfig(1024, 768, 4, 2, 3072, project=False, classifier="per_tag", tags=3429)
    ),
}
"""The architectures of the released files, written out by hand."""


def architecture(kind: str, tags: int = len(TAGS)) -> Architecture:
    """The numbers of the small network of a kind."""
    encoder = SwinConfig(IMAGE, 4, EMBED, DEPTHS, SWIN_HEADS, WINDOW, projection=WIDTH)
    head = HeadConfig(WIDTH, HIDDEN, 4, 2, INNER, label_width=WIDTH)
    if kind != "tag2text":
        return Architecture(encoder, head, reweight=kind == "ram_plus")
    per_tag = HeadConfig(encoder.swin_width, HIDDEN, 4, 2, INNER, project=False, classifier="per_tag", tags=tags)
    return Architecture(replace(encoder, projection=None), per_tag)


def shapes(kind: str, tags: int = len(TAGS)) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a whole official file of that kind: for tagging, computed by a model itself, and captioner."""
    found = expected_shapes(kind, architecture(kind, tags), tags, EACH)  # type: ignore[arg-type]
    for stage, side in ((0, 16), (1, 8), (2, 4)):
        at = f"visual_encoder.layers.{stage}.blocks"
        found |= {f"{at}.{block}.attn.relative_position_index": (WINDOW**2, WINDOW**2) for block in (0, 1)}
        if side > WINDOW:
            found[f"{at}.1.attn_mask"] = ((side // WINDOW) ** 2, WINDOW**2, WINDOW**2)
    if kind != "ram_plus":
        found["tag_encoder.embeddings.word_embeddings.weight"] = (11, HIDDEN)
        found["tag_encoder.embeddings.position_ids"] = (1, 5)
        found["tag_encoder.encoder.layer.0.output.dense.bias"] = (HIDDEN,)
        found["text_decoder.cls.predictions.bias"] = (11,)
    return found


def is_structural(key: str) -> bool:
    """Whether a model computes the tensor itself."""
    return key.endswith(("relative_position_index", "attn_mask", "position_ids"))


def state_dict(kind: str, tags: int = len(TAGS), salt: str = "tiny:") -> dict[str, Tensor]:
    """An official state dict with lively values: nothing saturates, everything matters."""
    weights: dict[str, Tensor] = {}
    for key, shape in shapes(kind, tags).items():
        if is_structural(key):
            weights[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        mu, sigma = 0.0, 1.5 / max(1, shape[-1] if len(shape) > 1 else 25) ** 0.5
        if key.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight")):
            mu, sigma = 1.0, 0.1
        elif key == "reweight_scale":
            mu, sigma = 2.659, 0.1
        elif key.startswith(("wordvec_proj.weight", "label_embed")):
            sigma = 1.0
        weights[key] = torch.from_numpy(reference.draw(key, shape, mu, sigma, salt))
    return weights


def captioner_shapes(
    words: int, hidden: int = HIDDEN, token_width: int = EMBED * 4, inner: int = INNER
) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a whole captioner in an official file: three layers over the tags, two that write."""
    numbers = {"vocab_size": words, "hidden_size": hidden, "intermediate_size": inner, "max_position_embeddings": 64}
    kind: dict[str, Any] = {**numbers, "num_attention_heads": 1, "is_decoder": True, "add_cross_attention": True}
    configs = [BertConfig(num_hidden_layers=layers, **kind) for layers in (3, 2)]
    with torch.device("meta"):
        state = Captioner(*configs, token_width).state_dict()
    others = ("token_type_embeddings", "position_ids", "predictions.decoder")
    return {key: tuple(each.shape) for key, each in state.items() if not any(part in key for part in others)}


def captioner_weights(shapes: dict[str, tuple[int, ...]], salt: str = "tiny:") -> dict[str, Tensor]:
    """A captioner's tensors; its searches find different texts at different widths, and end some of them."""
    weights: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        mu, sigma = (1.0, 0.1) if key.endswith("LayerNorm.weight") else (0.0, 1.5 / shape[-1] ** 0.5)
        if len(shape) == 1 and mu == 0:
            sigma = 0.3
        elif "position_embeddings" in key:
            sigma *= 3
        elif key.startswith("text_decoder") and key.endswith(("value.weight", "output.dense.weight")):
            sigma *= 0.2
        weights[key] = torch.from_numpy(reference.draw(key, shape, mu, sigma, salt))
    return weights


def captioning_state(kind: str) -> dict[str, Tensor]:
    """An official state dict with a whole captioner that knows all of BERT's words."""
    captioner = captioner_weights(captioner_shapes(30524, token_width=WIDTH if kind == "ram" else EMBED * 4))
    return {key: value for key, value in state_dict(kind).items() if not reference.is_caption_key(key)} | captioner


def write(
    folder: Path, kind: str, state: dict[str, Tensor] | None = None, names: Sequence[str] = TAGS, **others: Any
) -> tuple[Path, Path]:
    """Writes a weight file as the authors' trainer does, and its tag list; gives both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    file, tags = folder / f"{kind}.pth", folder / "tags.txt"
    torch.save({"model": state_dict(kind) if state is None else state, "epoch": 3, **others}, file)
    tags.write_text("\n".join(names))
    return file, tags


def imported(folder: Path, kind: str, state: dict[str, Tensor] | None = None, **options: Any) -> Bundle:
    """The bundle of a tiny file, with other options of its import."""
    write(folder, kind, state)
    return loaded(folder, kind, **options)


def loaded(folder: Path, kind: str, **options: Any) -> Bundle:
    """The bundle of the file that was written to a folder; the authors' own numbers are the defaults of an import."""
    numbers = {"image_size": IMAGE, "descriptions": EACH if kind == "ram_plus" else None}
    known = {"name": kind, "bundles_dir": folder / "bundles", **numbers, **options}
    return import_checkpoint(folder / f"{kind}.pth", folder / "tags.txt", **known)


def images(count: int = 2, salt: str = "tiny:") -> Tensor:
    """(count, 3, S, S) prepared images."""
    return torch.from_numpy(reference.draw("images", (count, 3, IMAGE, IMAGE), 0.0, 1.0, salt))
