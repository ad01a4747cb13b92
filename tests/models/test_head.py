"""The tagging head: RAM's formula, independence of tags, and its use in training and export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import plain, tiny
from torch import Tensor, nn

from ram_backend.models.head import HeadConfig, StableLayerNorm, TaggingHead, TagQueries
from ram_backend.models.official import our_names, read_architecture

CONFIG = HeadConfig(token_width=20, hidden=32, heads=4, layers=2, intermediate=48, label_width=12)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(config: HeadConfig = CONFIG) -> TaggingHead:
    torch.manual_seed(1)
    return TaggingHead(config).eval()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_layers_compute_rams_formula(kind: str) -> None:
    weights = tiny.state_dict(kind)
    projected = kind != "tag2text"
    config = HeadConfig(
        token_width=weights["tagging_head.encoder.layer.0.crossattention.self.key.weight"].shape[1],
        hidden=tiny.HIDDEN,
        heads=4,
        layers=2,
        intermediate=tiny.INNER,
        label_width=tiny.WIDTH if projected else None,
        project=projected,
        classifier="shared" if projected else "per_tag",
        tags=None if projected else len(tiny.TAGS),
    )
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    names = our_names(kind, read_architecture(kind, shapes, len(tiny.TAGS), tiny.IMAGE))  # type: ignore[arg-type]
    ours = {names[key].removeprefix("head."): value for key, value in weights.items() if key.startswith("tagging")}
    head = TaggingHead(config).eval()
    head.load_state_dict({**head.state_dict(), **ours})
    queries, tokens = drawn(5, tiny.HIDDEN), drawn(2, 9, config.token_width, seed=1)
    first = head.layers[0].query(queries)
    output = head.hidden_states(head.keys_values(tokens), TagQueries(queries, first))
    for image in range(2):
        torch.testing.assert_close(output[image], plain.head(weights, queries, tokens[image], 2), atol=2e-6, rtol=1e-5)


PER_TAG = replace(CONFIG, classifier="per_tag", tags=9, label_width=None, project=False)


@pytest.mark.parametrize("config", [CONFIG, PER_TAG])
def test_a_tags_logit_does_not_depend_on_the_others(config: HeadConfig) -> None:
    head, tokens = build(config), drawn(3, 7, 20)
    labels = drawn(9, config.query_input_width, seed=1)
    every = head(tokens, head.queries(labels, torch.arange(9)))
    chosen = torch.tensor([4, 0, 4, 8])
    some = head(tokens, head.queries(labels[chosen], chosen))
    torch.testing.assert_close(some, every[:, chosen], atol=1e-6, rtol=0)


def test_an_images_logits_do_not_depend_on_its_batch() -> None:
    head, tokens = build(), drawn(3, 7, 20)
    queries = head.queries(drawn(5, 12))
    alone = torch.cat([head(tokens[i : i + 1], queries) for i in range(3)])
    torch.testing.assert_close(head(tokens, queries), alone, atol=1e-6, rtol=0)


def test_queries_may_differ_from_image_to_image() -> None:
    head, tokens, labels = build(), drawn(2, 7, 20), drawn(2, 5, 12, seed=3)
    both = head(tokens, head.queries(labels))
    for image in range(2):
        one = head(tokens[image : image + 1], head.queries(labels[image]))
        torch.testing.assert_close(both[image : image + 1], one, atol=1e-6, rtol=0)


def test_the_number_of_heads_matters_though_no_shape_shows_it() -> None:
    head = build()
    other = TaggingHead(replace(CONFIG, heads=8)).eval()
    other.load_state_dict(head.state_dict())
    tokens, labels = drawn(1, 7, 20), drawn(5, 12)
    assert (head(tokens, head.queries(labels)) - other(tokens, other.queries(labels))).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient() -> None:
    head = TaggingHead(replace(CONFIG, dropout=0.1)).train()
    head(drawn(2, 7, 20), head.queries(drawn(5, 12))).square().sum().backward()
    silent = [
        name
        for name, parameter in head.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert set(silent) <= {"layers.0.key.bias", "layers.1.key.bias"}  # a softmax ignores them


def test_dropout_acts_in_training_only() -> None:
    head = TaggingHead(replace(CONFIG, dropout=0.5))
    tokens, labels = drawn(1, 7, 20), drawn(5, 12)
    head.eval()
    assert torch.equal(head(tokens, head.queries(labels)), head(tokens, head.queries(labels)))
    head.train()
    assert not torch.equal(head(tokens, head.queries(labels)), head(tokens, head.queries(labels)))


def test_norms_keep_a_tiny_epsilon_in_half_precision() -> None:
    norm = StableLayerNorm(8, eps=1e-12).half()
    constant = torch.full((1, 8), 3.0, dtype=torch.float16)
    assert torch.isfinite(norm(constant)).all()
    assert norm(constant).dtype == torch.float16
    small = torch.linspace(-1e-4, 1e-4, 8, dtype=torch.float16)[None]  # squares of these are 0 in half precision
    assert norm(small).float().std(correction=0).item() == pytest.approx(1, abs=1e-2)


class _Flat(nn.Module):
    def __init__(self, head: TaggingHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, hidden: Tensor, projected: Tensor) -> Tensor:
        logits: Tensor = self.head(tokens, TagQueries(hidden, projected))
        return logits


def test_exports_to_onnx_with_any_number_of_images_and_tags(tmp_path: Path) -> None:
    import onnxruntime

    head = build()
    queries = head.queries(drawn(5, 12))
    batch, tags = torch.export.Dim("batch"), torch.export.Dim("tags")
    torch.onnx.export(
        _Flat(head).eval(),
        (drawn(2, 7, 20), queries.hidden.detach(), queries.projected.detach()),
        tmp_path / "head.onnx",
        input_names=["tokens", "hidden", "projected"],
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: tags}, {0: tags}),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    tokens, queries = drawn(3, 7, 20), head.queries(drawn(11, 12, seed=5))
    inputs = {"tokens": tokens, "hidden": queries.hidden.detach(), "projected": queries.projected.detach()}
    (logits,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    np.testing.assert_allclose(logits, head(tokens, queries).detach().numpy(), atol=1e-5)
