"""RAM, RAM++ and Tag2Text as one torch module: Swin encoder and tagging head.

    RAM       queries are made of one frozen text embedding per tag          (arXiv 2306.03514)
    RAM++     ... of several, mixed for each image by their likeness to it   (arXiv 2310.15200)
    Tag2Text  queries are learned, every tag has its own classifier          (arXiv 2303.05657)

The numbers of a network come from its `Architecture`, which a bundle keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor, nn
from torch.nn import functional

from ram_backend.models.head import HeadConfig, TaggingHead, TagQueries
from ram_backend.models.label_embeddings import Entry, LabelEmbeddings


@dataclass(frozen=True)
class SwinConfig:
    """The numbers that make an encoder.

    Attributes:
        image_size: S, side of the square input in pixels.
        patch: side of a patch in pixels.
        embed: width of stage 0; it doubles with every stage.
        depths, heads: blocks and attention heads per stage.
        window: side of an attention window in patches.
        mlp_ratio: widening inside a block.
        projection: D that tokens are projected to; None leaves them as they are.
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
        """(T, D): patches of the last stage and the mean token, and their width."""
        side = self.image_size // (self.patch * 2 ** (len(self.depths) - 1))
        return side * side + 1, self.projection or self.swin_width


class ImageEncoder(nn.Module):
    """timm's Swin: images (B, 3, S, S) to tokens (B, T, D), token 0 their mean."""

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
        """For mixed precision: half products, but residual sums and norms in float32."""
        self.swin.patch_embed.register_forward_hook(_to_float32)
        for stage in self.swin.layers:
            stage.downsample.register_forward_hook(_to_float32)


@dataclass(frozen=True)
class Architecture:
    """The numbers of a network; `reweight`: RAM++, mixes a tag's embeddings."""

    encoder: SwinConfig
    head: HeadConfig
    reweight: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Inverse of `dataclasses.asdict`, as in bundle.json."""
        return cls(SwinConfig(**data["encoder"]), HeadConfig(**data["head"]), bool(data["reweight"]))


class LabelBlock(NamedTuple):
    """Label embeddings of L tags, padded to one block.

    Attributes:
        rows: (L, K, d), K the largest number of embeddings of a tag; 0 beyond a
            tag's own number.
        absent: (L, K) bool, True there; None where all tags have K.
        tags: (L,) int64 rows in the vocabulary, for "per_tag" heads only.
    """

    rows: Tensor
    absent: Tensor | None = None
    tags: Tensor | None = None

    @classmethod
    def of(cls, embeddings: Sequence[Tensor]) -> LabelBlock:
        """Packs the embeddings (k, d) of L tags; k >= 1 may differ from tag to tag."""
        counts = torch.tensor([len(rows) for rows in embeddings])
        block = nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)
        absent = torch.arange(block.shape[1]) >= counts[:, None]
        return cls(block, absent if absent.any() else None)

    def part(self, of: slice) -> LabelBlock:
        """The block of a run of its tags."""
        return LabelBlock(*(None if array is None else array[of] for array in self))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> LabelBlock:
        """The same on another device."""
        return LabelBlock(*(None if array is None else array.to(device) for array in self))  # type: ignore[arg-type]


class TaggingNetwork(nn.Module):
    """Image encoder, tagging head, RAM++'s scale; label embeddings come from outside."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = ImageEncoder(architecture.encoder)
        self.head = TaggingHead(architecture.head)
        self.reweight_scale: nn.Parameter | None = None
        if architecture.reweight:
            self.reweight_scale = nn.Parameter(torch.tensor(2.6592600))  # ln(1 / 0.07), CLIP's temperature

    @classmethod
    def with_weights(cls, architecture: Architecture, weights: Mapping[str, Tensor]) -> TaggingNetwork:
        """A network around existing tensors, without copying them, in evaluation mode.

        Raises:
            RuntimeError: the tensors are not exactly those of the architecture.
        """
        with torch.device("meta"):
            network = cls(architecture)
        restore_buffers(network.encoder)
        network.load_state_dict(dict(weights), strict=True, assign=True)
        return network.eval()

    def with_head(self, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> TaggingNetwork:
        """A network with a head of these tensors, all else shared; see `with_weights`."""
        with torch.device("meta"):
            network = type(self)(replace(self.architecture, head=replace(self.architecture.head, dropout=dropout)))
        network.encoder, network.reweight_scale = self.encoder, self.reweight_scale
        network.head.load_state_dict(dict(tensors), strict=True, assign=True)
        return network.eval()

    def label_block(self, labels: LabelEmbeddings, entries: Sequence[Entry]) -> LabelBlock:
        """Reads the label embeddings of L tags; one each, or several for RAM++."""
        if self.reweight_scale is not None:
            block = LabelBlock.of([torch.from_numpy(labels.of(entry)) for entry in entries])
        else:
            block = LabelBlock(torch.from_numpy(labels.means(entries))[:, None])
        if self.architecture.head.classifier == "per_tag":
            block = block._replace(tags=torch.from_numpy(np.array(entries, dtype=np.int64)))
        return block.to(self.head.classifier.weight.device)

    def queries(self, labels: LabelBlock, tokens: Tensor | None) -> TagQueries:
        """Queries of L tags, with gradients; in RAM++ they depend on tokens (B, T, D).

        RAM++ mixes a tag's embeddings for each image, by the softmax of their
        scaled likeness to it (section 3.3).
        """
        if self.reweight_scale is None or tokens is None:
            return self.head.queries(labels.rows[:, 0], labels.tags)
        image = functional.normalize(tokens[:, 0], dim=-1)
        likeness = self.reweight_scale.exp() * torch.einsum("bd,lkd->lbk", image, labels.rows)
        if labels.absent is not None:
            likeness = likeness.masked_fill(labels.absent[:, None, :], float("-inf"))
        mixed = torch.bmm(likeness.softmax(dim=-1), labels.rows).transpose(0, 1)  # (B, L, d)
        return self.head.queries(mixed)

    def forward(self, tokens: Tensor, labels: LabelBlock) -> Tensor:
        """Logits (B, L) of tags on image tokens (B, T, D), with gradients."""
        return self.head(tokens, self.queries(labels, tokens))


def restore_buffers(encoder: ImageEncoder) -> None:
    """Gives an encoder on device "meta" the buffers that no weight file holds.

    Position indices and shift masks don't depend on the width: a
    one-channel-wide twin has them.
    """
    config = encoder.config
    for name, buffer in _swin(config, embed=1, heads=(1,) * len(config.heads)).named_buffers():
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
