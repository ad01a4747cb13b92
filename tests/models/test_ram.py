"""The networks against stored numbers of the authors' code, and their use in training.

`official_small.npz` is the authors' forward pass on the networks of `tiny.py`, whose logits release 0147a08 gave, too;
at full size, that pass gives the published reference numbers within 2e-5. `official_head.npz` is a part of the
published numbers themselves: the image tokens of one photo and the logits of the first 40 tags.
"""

import numpy as np
import pytest
import torch
from models import reference, tiny

from ram_backend.models.head import StableLayerNorm
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.official import expected_shapes, label_key, our_names
from ram_backend.models.ram import LabelBlock, TaggingNetwork


def build(kind: str) -> tuple[TaggingNetwork, LabelBlock]:
    """The tiny network of a kind, and its label embeddings per tag."""
    weights, architecture = tiny.state_dict(kind), tiny.architecture(kind)
    label = label_key(kind)  # type: ignore[arg-type]
    ours = {
        name: weights[key][0] if key in {"fc.W", "fc.b"} else weights[key]
        for key, name in our_names(kind, architecture).items()  # type: ignore[arg-type]
    }
    network = TaggingNetwork.with_weights(architecture, ours)
    counts = np.full(len(tiny.TAGS), len(weights[label]) // len(tiny.TAGS))
    labels = LabelEmbeddings(weights[label].numpy(), counts, weights[label].shape[1])
    return network, network.label_block(labels, range(len(tiny.TAGS)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_small_network_gives_the_authors_tokens_and_logits(kind: str) -> None:
    network, labels = build(kind)
    with torch.no_grad():
        tokens = network.encoder(tiny.images(3))
        logits = network(tokens, labels)
    np.testing.assert_allclose(tokens, reference.stored("small", f"{kind}_tokens"), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(logits, reference.stored("small", f"{kind}_logits"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-4)
    assert tuple(tokens.shape[1:]) == network.architecture.encoder.token_shape


@pytest.mark.parametrize(("kind", "each"), [("ram", 1), ("ram_plus", 51)])
def test_the_full_width_head_gives_the_authors_logits(kind: str, each: int) -> None:
    tags = 40
    shapes = expected_shapes(kind, tiny.RELEASED[kind], tags, each)  # type: ignore[arg-type]
    keys, numbers = reference.stored("head", f"{kind}_keys"), reference.stored("head", f"{kind}_mu_sigma")
    weights = {key: reference.draw(key, shapes[key], *pair) for key, pair in zip(keys.tolist(), numbers, strict=True)}
    rows = weights.pop("label_embed")
    names = our_names(kind, tiny.RELEASED[kind])  # type: ignore[arg-type]
    with torch.device("meta"):
        network = TaggingNetwork(tiny.RELEASED[kind])
    ours = {names[key]: torch.from_numpy(np.asarray(array)) for key, array in weights.items()}
    missing, _ = network.load_state_dict(ours, strict=False, assign=True)
    assert all(name.startswith("encoder.") for name in missing)
    labels = network.label_block(LabelEmbeddings(rows, np.full(tags, each), 512), range(tags))
    with torch.no_grad():
        logits = network(torch.from_numpy(reference.stored("head", "tokens"))[None], labels)[0]
    np.testing.assert_allclose(logits, reference.stored("head", f"{kind}_logits"), atol=1e-4, rtol=0)


def test_norms_keep_a_tiny_epsilon_in_half_precision() -> None:
    norm = StableLayerNorm(8, eps=1e-12).half()
    constant = torch.full((1, 8), 3.0, dtype=torch.float16)
    assert torch.isfinite(norm(constant)).all()
    assert norm(constant).dtype == torch.float16
    small = torch.linspace(-1e-4, 1e-4, 8, dtype=torch.float16)[None]  # squares of these are 0 in half precision
    assert norm(small).float().std(correction=0).item() == pytest.approx(1, abs=1e-2)
