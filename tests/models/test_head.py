"""The tagging head: RAM's formula, independence of tags, and its use in training and export."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import plain, tiny
from torch import Tensor

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
