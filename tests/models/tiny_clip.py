"""CLIP of a few kilobytes: open_clip's own module with drawn weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

IMAGE, DIM = 32, 16
CONFIG: dict[str, Any] = {
    "embed_dim": DIM,
    "quick_gelu": True,
    "vision_cfg": {"image_size": IMAGE, "layers": 2, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def clip(config: dict[str, Any] = CONFIG) -> Any:
    """Weights large enough for the activation to matter."""
    made = CLIP(**config).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 3 / math.sqrt(parameter.shape[-1] if parameter.ndim else 1))
    return made


def write(path: Path, prefix: str = "") -> Path:
    """A weight file of both towers, as open_clip writes them."""
    save_file({prefix + key: value.contiguous() for key, value in clip().state_dict().items()}, str(path))
    return path
