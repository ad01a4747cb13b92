"""RAM, RAM++ and Tag2Text as one torch module: for inference and for fine-tuning.

    RAM       queries are made of one frozen text embedding per tag                     (arXiv 2306.03514)
    RAM++     ... of several, mixed for each image by their likeness to it              (arXiv 2310.15200)
    Tag2Text  queries are learned, and every tag has its own classifier                 (arXiv 2303.05657, tagging part)

The numbers of a network come from its `Architecture`, which a bundle keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ram_backend.models.encoder import ImageEncoder, SwinConfig, restore_buffers
from ram_backend.models.head import HeadConfig, TaggingHead, TagQueries


@dataclass(frozen=True)
class Architecture:
    """The numbers that make a network.

    Attributes:
        encoder: of the image encoder.
        head: of the tagging head.
        reweight: whether a tag's several embeddings are mixed for each image (RAM++).
    """

    encoder: SwinConfig
    head: HeadConfig
    reweight: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in bundle.json."""
        return {"encoder": self.encoder.to_json(), "head": self.head.to_json(), "reweight": self.reweight}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_json`."""
        return cls(SwinConfig.from_json(data["encoder"]), HeadConfig.from_json(data["head"]), bool(data["reweight"]))


class Descriptions(NamedTuple):
    """Several embeddings per tag, in a block.

    Attributes:
        rows: (L, K, d), K the largest count; what is beyond a tag's count is 0.
        absent: (L, K) bool, True there; None where all tags have K.
    """

    rows: Tensor
    absent: Tensor | None

    @classmethod
    def of(cls, embeddings: Sequence[Tensor]) -> Descriptions:
        """Packs the embeddings (k, d) of L tags; k >= 1 may differ from tag to tag."""
        counts = [len(rows) for rows in embeddings]
        block = nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)
        if min(counts) == max(counts):
            return cls(block, None)
        places = torch.arange(max(counts), device=block.device)
        return cls(block, places >= torch.tensor(counts, device=block.device)[:, None])

    def to(self, device: torch.device) -> Descriptions:
        """The same on another device."""
        return Descriptions(self.rows.to(device), None if self.absent is None else self.absent.to(device))


class TaggingNetwork(nn.Module):
    """Image encoder and tagging head, and for RAM++ the scale of its mixing.

    Inference takes the label embeddings of the asked tags from disk. Training attaches those that it needs
    (`attach_labels`): frozen as the authors have them, and then no part of the state dict, or learned (Tag2Text).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = ImageEncoder(architecture.encoder)
        self.head = TaggingHead(architecture.head)
        self.reweight_scale: nn.Parameter | None = None
        if architecture.reweight:
            self.reweight_scale = nn.Parameter(torch.tensor(2.6592600))  # ln(1 / 0.07), CLIP's temperature
        self.label_embeddings: Tensor | None
        self.absent: Tensor | None
        self.tags: Tensor | None
        for name in ("label_embeddings", "absent", "tags"):
            self.register_buffer(name, None, persistent=False)

    @classmethod
    def with_weights(cls, architecture: Architecture, weights: Mapping[str, Tensor]) -> TaggingNetwork:
        """Builds a network around existing tensors, without copying or initialising anything, in evaluation mode.

        Raises:
            RuntimeError: the tensors are not exactly those of the architecture.
        """
        with torch.device("meta"):
            network = cls(architecture)
        restore_buffers(network.encoder)
        network.load_state_dict(dict(weights), strict=True, assign=True)
        return network.eval()

    def head_of(self, tensors: Mapping[str, Tensor]) -> TaggingHead:
        """A head like this network's around other tensors, without copying them, in evaluation mode.

        Raises:
            RuntimeError: the tensors are not exactly those of the architecture.
        """
        with torch.device("meta"):
            head = TaggingHead(self.architecture.head)
        head.load_state_dict(dict(tensors), strict=True, assign=True)
        return head.eval()

    def with_head(self, head: TaggingHead) -> TaggingNetwork:
        """A network with another head that shares encoder and mixing scale with this one; no labels are attached."""
        with torch.device("meta"):
            network = type(self)(self.architecture)
        network.encoder, network.head, network.reweight_scale = self.encoder, head, self.reweight_scale
        return network.eval()

    def attach_labels(
        self, embeddings: Sequence[Tensor], *, tags: Sequence[int] | None = None, learned: bool = False
    ) -> None:
        """Chooses the L tags that `forward` scores.

        Args:
            embeddings: (k, d) per tag; k = 1 unless the network mixes several (RAM++).
            tags: their rows in the vocabulary, for heads with a classifier per tag; None: 0 .. L - 1.
            learned: whether they train with the network.
        """
        device = self.head.classifier.weight.device
        packed = Descriptions.of([rows.to(device) for rows in embeddings])
        rows = packed.rows if self.reweight_scale is not None else packed.rows[:, 0]
        del self.label_embeddings
        if learned:
            self.register_parameter("label_embeddings", nn.Parameter(rows))
        else:
            self.register_buffer("label_embeddings", rows, persistent=False)
        self.absent = packed.absent
        self.tags = torch.tensor(range(len(embeddings)) if tags is None else tags, device=device)

    def reweighted(self, tokens: Tensor, descriptions: Descriptions) -> Tensor:
        """Mixes each tag's embeddings for each image (RAM++ paper, section 3.3).

        Args:
            tokens: (B, T, d); only token 0, the image as a whole, is used.
            descriptions: of L tags.

        Returns:
            (B, L, d): sums of a tag's embeddings weighted by the softmax of their scaled likeness to the image.
        """
        assert self.reweight_scale is not None
        return mixed(tokens, descriptions, self.reweight_scale)

    def queries(self, tokens: Tensor) -> TagQueries:
        """Queries for the attached tags; they depend on the tokens (B, T, D) in RAM++ only."""
        if self.label_embeddings is None:
            raise RuntimeError("attach_labels comes first: the network doesn't know which tags to score")
        labels = self.label_embeddings
        if self.reweight_scale is not None:
            labels = self.reweighted(tokens, Descriptions(labels, self.absent))
        return self.head.queries(labels, self.tags)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, L) of the attached tags on images (B, 3, S, S), with gradients."""
        tokens = self.encoder(images)
        logits: Tensor = self.head(tokens, self.queries(tokens))
        return logits


def mixed(tokens: Tensor, descriptions: Descriptions, scale: Tensor) -> Tensor:
    """Each tag's embeddings, mixed for each image: (B, L, d); see `TaggingNetwork.reweighted`.

    Args:
        tokens: (B, T, d).
        descriptions: of L tags.
        scale: logarithm of the factor on the likeness of image and embedding.
    """
    image = functional.normalize(tokens[:, 0], dim=-1)
    likeness = scale.exp() * torch.einsum("bd,lkd->lbk", image, descriptions.rows)
    if descriptions.absent is not None:
        likeness = likeness.masked_fill(descriptions.absent[:, None, :], float("-inf"))
    return torch.bmm(likeness.softmax(dim=-1), descriptions.rows).transpose(0, 1)
