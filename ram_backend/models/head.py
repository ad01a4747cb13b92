"""Tagging head: cross-attention from tag queries to image tokens, none between queries.

RAM, RAM++, Tag2Text and the starter differ only in their `HeadConfig`. A layer
is a post-norm transformer layer without self-attention (RAM paper, section 3.2;
"Recognize Anything", Zhang et al. 2023):

    a = norm(x + dense(cross_attention(x, tokens)));    x = norm(a + down(gelu(up(a))))

Because queries never see each other, the logit of a tag doesn't depend on which
other tags are asked for, and cost is in proportion to their number.

Shapes: B images, T image tokens of width D, L tags, E label embedding width, H
hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class HeadConfig:
    """The numbers that make a head.

    Attributes:
        token_width: D.
        hidden: H, a multiple of `heads`.
        heads: attention heads. No tensor shape reveals this number: a wrong one
            loads and gives wrong logits.
        layers: at least one.
        intermediate: width inside the feed-forward part.
        label_width: E; None: label embeddings are H wide and go straight in.
        project: whether label embeddings pass a linear layer and a relu to
            become queries; needs `label_width`.
        classifier: "shared", one linear layer for every tag; or "per_tag", own
            weights for each of `tags` tags.
        tags: number of tags ("per_tag" only).
        dropout: of attention weights and layer outputs while training.
    """

    token_width: int
    hidden: int
    heads: int
    layers: int
    intermediate: int
    label_width: int | None = None
    project: bool = True
    classifier: Literal["shared", "per_tag"] = "shared"
    tags: int | None = None
    layer_norm_eps: float = 1e-12
    dropout: float = 0.0

    @property
    def query_input_width(self) -> int:
        """Width of a label embedding: `label_width`, or H where they go straight in."""
        return self.label_width if self.project and self.label_width is not None else self.hidden


class TagQueries(NamedTuple):
    """What the head needs to know about L tags.

    Attributes:
        hidden: (L, H), or (B, L, H) where the queries depend on the image
            (RAM++).
        projected: same shape: layer 0's `query` projection of `hidden`.
        weight, bias: (L, H) and (L,) classifier rows of these tags ("per_tag"
            heads), else None.
    """

    hidden: Tensor
    projected: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer: (B, heads, T, H / heads) each."""


class StableLayerNorm(nn.LayerNorm):
    """Layer norm in float32: an epsilon of 1e-12 is 0 in half precision."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises the last axis; the result has the input's shape and type."""
        weight, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class HeadLayer(nn.Module):
    """One post-norm layer: cross-attention to the tokens, then a feed-forward part."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.token_width, config.hidden)
        self.value = nn.Linear(config.token_width, config.hidden)
        self.attention_output = nn.Linear(config.hidden, config.hidden)
        self.attention_norm = StableLayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden, config.intermediate)
        self.down = nn.Linear(config.intermediate, config.hidden)
        self.output_norm = StableLayerNorm(config.hidden, eps=config.layer_norm_eps)

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Keys and values of the tokens (B, T, D)."""
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def forward(self, hidden: Tensor, projected: Tensor, memory: KeysValues) -> Tensor:
        """Queries (B, L, H), and their projection by `query`, to (B, L, H)."""
        dropout = self.dropout if self.training else 0.0
        queries = self._split(projected)
        attended = functional.scaled_dot_product_attention(queries, *memory, dropout_p=dropout)
        return self.after_attention(hidden, attended)

    def attention(self, projected: Tensor, memory: KeysValues) -> Tensor:
        """Attention weights (B, heads, L, T) of projected queries (B, L, H)."""
        queries, keys = self._split(projected), memory[0]
        return (queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5).softmax(dim=-1)

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest: from attended values (B, heads, L, H / heads) to (B, L, H)."""
        merged = attended.transpose(1, 2).reshape(hidden.shape)
        summed = self.attention_norm(hidden + self._drop(self.attention_output(merged)))
        return self.output_norm(summed + self._drop(self.down(functional.gelu(self.up(summed)))))

    def _split(self, states: Tensor) -> Tensor:
        """(B, N, H) to (B, heads, N, H / heads)."""
        batch, length, width = states.shape
        return states.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def _drop(self, states: Tensor) -> Tensor:
        return functional.dropout(states, self.dropout, self.training)


class TaggingHead(nn.Module):
    """Scores tags on images: `logits = head(tokens, head.queries(label_embeddings))`."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.projection: nn.Linear | None = None
        if config.project:
            self.projection = nn.Linear(config.query_input_width, config.hidden)
        self.layers: Sequence[HeadLayer] = nn.ModuleList(HeadLayer(config) for _ in range(config.layers))  # type: ignore[assignment]
        self.classifier = nn.Linear(config.hidden, config.tags or 1)

    def queries(self, label_embeddings: Tensor, rows: Tensor | None = None) -> TagQueries:
        """Turns label embeddings (L, E), or for each image (B, L, E), into queries.

        `rows`: (L,) int64, the tag of each embedding, for "per_tag" heads only.
        """
        hidden = label_embeddings
        if self.projection is not None:
            hidden = functional.relu(self.projection(label_embeddings))
        projected = self.layers[0].query(hidden)
        if self.config.classifier == "shared":
            return TagQueries(hidden, projected)
        assert rows is not None
        return TagQueries(hidden, projected, self.classifier.weight[rows], self.classifier.bias[rows])

    def keys_values(self, tokens: Tensor) -> list[KeysValues]:
        """What every layer keeps of the image tokens (B, T, D)."""
        return [layer.keys_values(tokens) for layer in self.layers]

    def hidden_states(self, memory: list[KeysValues], queries: TagQueries) -> Tensor:
        """Output (B, L, H) of the last layer."""
        hidden, projected = self._before_last(memory, queries)
        return self.layers[-1](hidden, projected, memory[-1])

    def relevance(self, tokens: Tensor, queries: TagQueries) -> Tensor:
        """Gradient-weighted attention: how much tokens speak for tags, (B, L, T), >= 0.

        Of the last layer, the mean over the heads of attention x its positive
        gradient (Chefer, Gur, Wolf 2021, arXiv 2103.15679). One backward pass
        gives each tag its own, since queries never see each other.
        """
        memory, layer = self.keys_values(tokens), self.layers[-1]
        hidden, projected = self._before_last(memory, queries)
        with torch.enable_grad():
            weights = layer.attention(projected, memory[-1]).detach().requires_grad_()
            logits = self.classify(layer.after_attention(hidden, weights @ memory[-1][1]), queries)
            (gradient,) = torch.autograd.grad(logits.sum(), weights)
        return (weights.detach() * gradient.relu()).mean(dim=1)

    def _before_last(self, memory: list[KeysValues], queries: TagQueries) -> tuple[Tensor, Tensor]:
        """Input of the last layer: hidden states and projection, (B, L, H) each."""
        batch = memory[0][0].shape[0]  # len() would be fixed by an export
        hidden = queries.hidden.expand(batch, *queries.hidden.shape[-2:])
        projected = queries.projected.expand(hidden.shape)
        for layer, following, seen in zip(self.layers, self.layers[1:], memory, strict=False):
            hidden = layer(hidden, projected, seen)
            projected = following.query(hidden)
        return hidden, projected

    def classify(self, hidden: Tensor, queries: TagQueries) -> Tensor:
        """Logits (B, L) from the last layer's output (B, L, H)."""
        if queries.weight is None or queries.bias is None:
            return self.classifier(hidden).squeeze(-1)
        return (hidden * queries.weight).sum(dim=-1) + queries.bias

    def forward(self, tokens: Tensor, queries: TagQueries) -> Tensor:
        """Logits (B, L) of the tags in `queries` on images with `tokens` (B, T, D)."""
        return self.classify(self.hidden_states(self.keys_values(tokens), queries), queries)
