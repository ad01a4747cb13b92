"""The networks against a naive write-down of them, and their use in training."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from models import plain, tiny
from torch import Tensor

from ram_backend.models.encoder import ImageEncoder, SwinConfig, restore_buffers
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.official import label_key, our_names, read_architecture
from ram_backend.models.ram import Architecture, LabelBlock, TaggingNetwork


def build(kind: str) -> tuple[TaggingNetwork, dict[str, Tensor], LabelBlock]:
    """The tiny network of a kind, its official weights, and its label embeddings per tag."""
    weights = tiny.state_dict(kind)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    architecture = read_architecture(kind, shapes, len(tiny.TAGS), tiny.IMAGE)  # type: ignore[arg-type]
    label = label_key(kind)  # type: ignore[arg-type]
    ours = {
        name: weights[key][0] if key in {"fc.W", "fc.b"} else weights[key]
        for key, name in our_names(kind, architecture).items()  # type: ignore[arg-type]
    }
    network = TaggingNetwork.with_weights(architecture, ours)
    counts = np.full(len(tiny.TAGS), len(weights[label]) // len(tiny.TAGS))
    labels = LabelEmbeddings(weights[label].numpy(), counts, weights[label].shape[1])
    return network, weights, network.label_block(labels, range(len(tiny.TAGS)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_tokens_are_those_of_the_naive_swin(kind: str) -> None:
    network, weights, _ = build(kind)
    images = tiny.images()
    with torch.no_grad():
        tokens = network.encoder(images)
    for number in range(2):
        expected = plain.tokens(weights, images[number], tiny.DEPTHS, tiny.WINDOW)
        torch.testing.assert_close(tokens[number], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-4)
    assert tuple(tokens.shape[1:]) == network.architecture.encoder.token_shape


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_forward_gives_the_naive_logits(kind: str) -> None:
    network, weights, labels = build(kind)
    images = tiny.images(3)
    with torch.no_grad():
        logits = network(network.encoder(images), labels)
    expected = plain.logits(weights, images, len(tiny.TAGS), tiny.DEPTHS, tiny.WINDOW)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_gradients_reach_encoder_head_and_mixing(kind: str) -> None:
    network, _, labels = build(kind)
    network.train()
    network(network.encoder(tiny.images()), labels).square().mean().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {"encoder.swin.patch_embed.proj.weight", "head.layers.1.down.weight", "head.classifier.bias"} <= reached
    assert ("reweight_scale" in reached) == (kind == "ram_plus")


def test_buffers_that_no_file_holds_are_those_of_an_ordinary_network() -> None:
    config = SwinConfig(tiny.IMAGE, 4, tiny.EMBED, tiny.DEPTHS, tiny.SWIN_HEADS, tiny.WINDOW, projection=8)
    ordinary = dict(ImageEncoder(config).named_buffers())
    with torch.device("meta"):
        encoder = ImageEncoder(config)
    restore_buffers(encoder)
    restored = dict(encoder.named_buffers())
    assert restored.keys() == ordinary.keys()
    assert any(name.endswith("attn_mask") for name in restored)
    for name, buffer in ordinary.items():
        assert torch.equal(restored[name], buffer), name


def test_weights_that_do_not_fit_are_refused() -> None:
    network, _, _ = build("ram")
    weights = dict(network.state_dict())
    weights.pop("head.classifier.bias")
    with pytest.raises(RuntimeError, match=r"classifier\.bias"):
        TaggingNetwork.with_weights(network.architecture, weights)


def test_an_architecture_survives_json() -> None:
    architecture = build("tag2text")[0].architecture
    assert Architecture.from_json(json.loads(json.dumps(asdict(architecture)))) == architecture
