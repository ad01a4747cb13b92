"""CLIP's ViT-B/16 image tower with OpenAI's weights: what a head is held to while it is tuned (CLIP distillation)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ram_backend.models.preprocessing import Preprocessing
from ram_backend.vocabulary.clip_weights import MODEL, chosen_device, digest_of, load_tower

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

_PREFIX = "visual."


class ClipImageEncoder:
    """CLIP's image features.

    Attributes:
        id: weights (digest of the tower's tensors): equal ids give equal features.
        dim: width d of a feature, 512 with the released weights.
        preprocessing: how it wants its images.
    """

    def __init__(self, tower: VisionTransformer, *, device: str = "cpu") -> None:
        """Takes an image tower with its weights.

        Args:
            tower: open_clip's module.
            device: where it runs.
        """
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        self._tower = tower.eval().float().to(device)
        self._device = device
        self.dim = int(tower.output_dim)
        self.id = f"clip-vit-b-16-image-{digest_of(tower.state_dict())[:16]}"
        self.preprocessing = Preprocessing(
            size=int(tower.image_size[0]),
            resize="crop",
            interpolation="bicubic",
            mean=OPENAI_DATASET_MEAN,
            std=OPENAI_DATASET_STD,
        )

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images.

        Args:
            pixels: (B, 3, S, S) from `preprocessing`.

        Returns:
            (B, d) float32, not normalised.
        """
        features: NDArray[np.float32] = self._tower(torch.from_numpy(pixels).to(self._device)).float().cpu().numpy()
        return features


def build_image_tower(config: Mapping[str, Any]) -> VisionTransformer:
    """An image tower without weights, from a configuration of open_clip (`embed_dim`, `quick_gelu`, `vision_cfg`)."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    vision = config["vision_cfg"]
    return VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=4.0,
        output_dim=config["embed_dim"],
        act_layer=QuickGELU if config.get("quick_gelu") else nn.GELU,
    )


def load_clip_image_encoder(weights: Path | None, *, device: str = "auto") -> ClipImageEncoder:
    """CLIP ViT-B/16's image encoder with OpenAI's weights, from the file that holds the text encoder, too.

    Args:
        weights: as for `load_clip_text_encoder`.
        device: "cpu", "cuda" or "auto".

    Raises:
        TextEncoderUnavailable: the weights are not at hand or don't fit; names the file and the remedy.
    """
    import open_clip

    tower = build_image_tower(open_clip.get_model_config(MODEL))
    load_tower(tower, weights, _image_key, "image")
    return ClipImageEncoder(tower, device=chosen_device(device))


def _image_key(key: str) -> str | None:
    return key.removeprefix(_PREFIX) if key.startswith(_PREFIX) else None
