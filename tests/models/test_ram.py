"""The networks against a naive write-down of them, and their use in training."""

from __future__ import annotations

import pytest
import torch
from models import plain, tiny
from torch import Tensor

from ram_backend.models.encoder import ImageEncoder, SwinConfig, restore_buffers
from ram_backend.models.official import label_key, our_names, read_architecture
from ram_backend.models.ram import Architecture, Descriptions, TaggingNetwork


def build(kind: str) -> tuple[TaggingNetwork, dict[str, Tensor], list[Tensor]]:
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
    labels = weights[label].reshape(len(tiny.TAGS), -1, weights[label].shape[1])
    return network, weights, list(labels)


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
    network.attach_labels(labels)
    images = tiny.images(3)
    with torch.no_grad():
        logits = network(images)
    expected = plain.logits(weights, images, len(tiny.TAGS), tiny.DEPTHS, tiny.WINDOW)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_choice_of_tags_gives_their_columns(kind: str) -> None:
    network, _, labels = build(kind)
    images = tiny.images(1)
    with torch.no_grad():
        network.attach_labels(labels)
        every = network(images)
        network.attach_labels([labels[5], labels[2]], tags=[5, 2])
        torch.testing.assert_close(network(images), every[:, [5, 2]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("learned", [False, True])
def test_gradients_reach_encoder_head_and_learned_labels(kind: str, learned: bool) -> None:
    network, _, labels = build(kind)
    network.train()
    network.attach_labels(labels, learned=learned)
    network(tiny.images()).square().mean().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {"encoder.swin.patch_embed.proj.weight", "head.layers.1.down.weight", "head.classifier.bias"} <= reached
    assert ("label_embeddings" in reached) == learned
    assert ("reweight_scale" in reached) == (kind == "ram_plus")
    assert ("label_embeddings" in network.state_dict()) == learned


def test_labels_can_be_attached_again_and_follow_the_module() -> None:
    network, _, labels = build("ram")
    network.attach_labels(labels, learned=True)
    network.attach_labels(labels[:2])
    assert network(tiny.images(1)).shape == (1, 2)
    assert network.double().label_embeddings.dtype == torch.float64  # type: ignore[union-attr]


def test_tags_may_have_different_numbers_of_descriptions() -> None:
    network, weights, labels = build("ram_plus")
    ragged = [labels[0], labels[1][:1], labels[2][:2]]
    tokens = network.encoder(tiny.images()).detach()
    mixed = network.reweighted(tokens, Descriptions.of(ragged))
    for image in range(2):
        direction = tokens[image, 0] / tokens[image, 0].norm()
        for tag, rows in enumerate(ragged):
            weight = (weights["reweight_scale"].exp() * (rows @ direction)).softmax(0)
            torch.testing.assert_close(mixed[image, tag], weight @ rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[:, 1], labels[1][:1].expand(2, -1))  # one description: RAM's own formula


def test_forward_without_tags_says_so() -> None:
    network, _, _ = build("ram")
    with pytest.raises(RuntimeError, match="attach_labels"):
        network(tiny.images(1))


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
    assert Architecture.from_json(architecture.to_json()) == architecture
