"""Swin encoder of RAM, RAM++ and Tag2Text: timm's Swin, a mean token in front, and an optional projection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor, nn


@dataclass(frozen=True)
class SwinConfig:
    """The numbers that make an encoder.

    Attributes:
        image_size: S, side of the square input in pixels.
        patch: side of a patch in pixels.
        embed: width of stage 0; it doubles with every stage.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: side of an attention window in patches.
        mlp_ratio: widening inside a block.
        projection: D, width that tokens are projected to; None leaves them as
            the last stage made them.
    """

    image_size: int
    patch: int
    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    mlp_ratio: float = 4.0
    projection: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "heads", tuple(self.heads))

    @property
    def swin_width(self) -> int:
        """Width of the last stage."""
        return int(self.embed * 2 ** (len(self.depths) - 1))

    @property
    def token_shape(self) -> tuple[int, int]:
        """(T, D): the patches of the last stage and the mean token, and their width."""
        side = self.image_size // (self.patch * 2 ** (len(self.depths) - 1))
        return side * side + 1, self.projection or self.swin_width


class ImageEncoder(nn.Module):
    """Images (B, 3, S, S) to tokens (B, T, D); token 0 is the mean of the others."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.swin = _swin(config, config.embed, config.heads)
        self.projection: nn.Linear | None = None
        if config.projection is not None:
            self.projection = nn.Linear(config.swin_width, config.projection)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of images that were prepared as the bundle's preprocessing says."""
        patches = self.swin.forward_features(images).flatten(1, 2)
        tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
        return tokens if self.projection is None else self.projection(tokens)

    def keep_residuals_in_float32(self) -> None:
        """For mixed precision: half-precision products, but residual sums and norms in float32 from end to end.

        The sums would otherwise take the half precision of the convolution and
        of each patch merging.
        """
        self.swin.patch_embed.register_forward_hook(_to_float32)
        for stage in self.swin.layers:
            stage.downsample.register_forward_hook(_to_float32)


def restore_buffers(encoder: ImageEncoder) -> None:
    """Gives an encoder that was built without memory (device "meta") the buffers that no weight file holds.

    Position indices and shift masks depend on the geometry and not on the
    width: a one-channel-wide twin has them.
    """
    config = encoder.config
    twin = _swin(config, embed=1, heads=(1,) * len(config.heads))
    for name, buffer in twin.named_buffers():
        owner, _, attribute = name.rpartition(".")
        setattr(encoder.swin.get_submodule(owner), attribute, buffer)


def _swin(config: SwinConfig, embed: int, heads: tuple[int, ...]) -> SwinTransformer:
    swin = SwinTransformer(
        img_size=config.image_size,
        patch_size=config.patch,
        num_classes=0,
        global_pool="",
        embed_dim=embed,
        depths=config.depths,
        num_heads=heads,
        window_size=config.window,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=0.0,
    )
    for module in swin.modules():
        if isinstance(module, WindowAttention):
            module.fused_attn = True  # timm's own switch is global, and off for Swin
    return swin


def _to_float32(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.float()
