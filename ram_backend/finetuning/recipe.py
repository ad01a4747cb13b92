"""Training losses of RAM, RAM++ and Tag2Text.

    RAM       tags + distillation (+ captions)     arXiv 2306.03514
    RAM++     tags + distillation (+ alignment)    arXiv 2310.15200
    Tag2Text  tags (+ captions)                    arXiv 2303.05657
    starter   tags, by cross-entropy; only its head learns

Those in brackets need a caption of each image. The authors sum the losses of
tags and alignment over `BATCH` images; here they are `BATCH` times the mean.
The asymmetric loss raises scores; cross-entropy keeps calibrated ones so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ram_backend.captions.writer import CaptionWriter
from ram_backend.errors import InputError
from ram_backend.models.bundle import Bundle
from ram_backend.models.captioner import Captioner, load_captioner
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.ram import TaggingNetwork
from ram_backend.models.starter.export import StarterModule
from ram_backend.models.starter.install import HEAD_WEIGHTS, PACKAGED, starter_digest
from ram_backend.models.torch_network import load_module
from ram_backend.tagging.subset import Subset
from ram_backend.training.head_tuning import asymmetric_loss
from ram_backend.vocabulary.minilm import bert_tokenizer

Part = Literal["head", "projection", "last-stage", "all"]
"""What learns: each has all that the one before it has."""

BATCH = 26
"""Images of the authors' batch on one GPU."""
GAMMA_TAGS, GAMMA_ALIGNMENT, MARGIN = 7.0, 4.0, 0.05
"""Of the asymmetric loss: exponents of negatives, and its clip."""
TAGS_AT_ONCE = 1024
"""Tags whose activations are in memory together, with gradient checkpointing."""


@dataclass(frozen=True)
class FinetuningOptions:
    """Hyperparameters; the defaults are the authors'.

    Attributes:
        part: what learns; the captioner always does, since it shares the head's
            layers.
        epochs: the learning rate falls from one to the next, as a cosine.
        batch: images of a step and process.
        accumulate: steps whose gradients are summed up before weights change.
        learning_rate: of the first epoch.
        dropout: of head and captioner, in [0, 1).
        checkpointing: recompute activations in the backward pass instead of
            storing them.
        seed: same seed, same result on one machine.
    """

    part: Part = "all"
    epochs: int = 2
    batch: int = BATCH
    accumulate: int = 1
    learning_rate: float = 5e-6
    dropout: float = 0.1
    checkpointing: bool = True
    seed: int = 0


class Batch(NamedTuple):
    """What is known of B images.

    Attributes:
        images: (B, 3, S, S) prepared pixels.
        labels: (B, L), 1 = right, 0 = wrong.
        known: (B, L), 0 = unknown.
        clip_features: (B, d) of CLIP's image encoder, not normalised; None: no
            distillation.
        texts: (M, d) CLIP embeddings of length 1 of captions, those of other
            processes included; None: no alignment.
        matches: (B, M), 1 where the caption is of the image.
        captions: of each image, beginning with the captioner's prompt; empty:
            no caption loss.
        caption_tags: the tags that each caption names.
    """

    images: Tensor
    labels: Tensor
    known: Tensor
    clip_features: Tensor | None = None
    texts: Tensor | None = None
    matches: Tensor | None = None
    captions: Sequence[str] = ()
    caption_tags: Sequence[Sequence[str]] = ()


class Recipe(nn.Module):
    """A bundle's network and the losses of what learns; label embeddings are frozen.

    Attributes:
        network: the bundle's.
        options: as given.
        captioner: shares the tagging head's layers; None: no caption loss.
    """

    def __init__(
        self,
        bundle: Bundle,
        subset: Subset,
        options: FinetuningOptions,
        *,
        captions: bool = False,
        device: torch.device | None = None,
        mean: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        """Reads the bundle's weights, in evaluation mode.

        Args:
            bundle: the base model.
            subset: L tags that the labels are about.
            options: part, dropout and checkpointing.
            captions: there are captions to learn from.
            device: where the weights go; None: the CPU.
            mean: of a scalar over all processes.

        Raises:
            InputError: the bundle has no such part, or it can't learn.
            BundleDamaged: its weights can't be read.
        """
        super().__init__()
        self.network = _network(bundle, options.part).to(device)
        self.captioner: Captioner | None = None
        if captions and bundle.kind != "starter" and not bundle.lacks_captioner:
            captioner = load_captioner(bundle, "cpu", dict(self.network.named_parameters())).to(device)
            for bert in (captioner.tag_encoder, captioner.text_decoder.bert):
                bert.embeddings.token_type_embeddings.requires_grad_(False)  # zeros: the authors have none
            self.captioner, self._writer = captioner, CaptionWriter(captioner, bert_tokenizer())
            for module in captioner.modules():
                if isinstance(module, nn.Dropout):
                    module.p = options.dropout
        for layer in self.network.head.layers:
            layer.dropout = options.dropout
        self._labels = self.network.label_block(LabelEmbeddings.open(bundle.path), subset.entries)
        self._calibration = torch.tensor(np.stack([subset.calibration.slope, subset.calibration.offset]), device=device)
        self._focus = (0.0, 0.0) if subset.calibration.fitted else (GAMMA_TAGS, MARGIN)
        self.options, self._mean = options, mean
        if options.checkpointing and isinstance(self.network, TaggingNetwork):
            self.network.encoder.swin.set_grad_checkpointing(True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses: "loss" (what is minimised) and its parts, without gradient.

        "tag" and "alignment" are per image, "distillation" is the mean
        absolute difference, "caption" the mean over word pieces. Where there
        are captions, the loss of tags is scaled to the size of theirs.
        """
        tokens = self.network.encoder(batch.images)
        slope, offset = self._calibration
        logits = self._logits(tokens) * slope + offset
        parts = {"tag": _asymmetric(logits, batch.labels, batch.known, *self._focus)}
        total = BATCH * parts["tag"]
        if batch.captions and self.captioner is not None:
            loss, pieces = self._writer.loss(tokens, batch.caption_tags, batch.captions)
            weight = torch.tensor(float(pieces), device=loss.device)
            parts["caption"] = loss * weight / self._mean(weight)
            scale = self._mean(parts["caption"].detach()) / self._mean(total.detach()).clamp_min(1e-8)
            total = total * scale + parts["caption"]
        if batch.clip_features is not None:
            parts["distillation"] = functional.l1_loss(tokens[:, 0].float(), batch.clip_features.float())
            total = total + parts["distillation"]
        if batch.texts is not None and batch.matches is not None:
            logits = self.network.head(tokens, self.network.head.queries(batch.texts))
            known = torch.ones_like(batch.matches)
            parts["alignment"] = _asymmetric(logits.float(), batch.matches, known, GAMMA_ALIGNMENT, MARGIN)
            total = total + BATCH * parts["alignment"]
        return {"loss": total, **{name: loss.detach() for name, loss in parts.items()}}

    def _logits(self, tokens: Tensor) -> Tensor:
        """(B, L) float32 before calibration, in blocks."""
        if not self.options.checkpointing:
            return self.network(tokens, self._labels).float()
        parts = [
            self._labels.part(slice(at, at + TAGS_AT_ONCE)) for at in range(0, len(self._labels.rows), TAGS_AT_ONCE)
        ]
        return torch.cat([checkpoint(self.network, tokens, part, use_reentrant=False) for part in parts], dim=1).float()


def _network(bundle: Bundle, part: Part) -> Any:
    """The network with one part that learns; RAM++'s scale belongs to the head."""
    if bundle.kind == "starter":
        weights = bundle.path / HEAD_WEIGHTS
        if not weights.is_file() and bundle.digest == starter_digest():
            weights = PACKAGED / HEAD_WEIGHTS
        if part == "head":
            return StarterModule(bundle, weights)
        raise InputError(f"The encoder of bundle {bundle.name!r} runs in ONNX and can't learn: use --train head.")
    network = load_module(bundle).requires_grad_(part == "all")
    learning: list[Any] = [network.head, network.reweight_scale]
    if part != "head":
        learning.append(network.encoder.projection)
    if part == "projection" and network.encoder.projection is None:
        raise InputError(f"Bundle {bundle.name!r} has no projection after its encoder: use --train head or last-stage.")
    if part == "last-stage":
        learning += [network.encoder.swin.layers[-1], network.encoder.swin.norm]
    for each in learning:
        if each is not None:
            each.requires_grad_(True)
    return network


def _asymmetric(logits: Tensor, labels: Tensor, known: Tensor, gamma: float, margin: float) -> Tensor:
    return asymmetric_loss(logits, labels, known, gamma_neg=gamma, clip=margin, detached=True)
