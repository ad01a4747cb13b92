"""Tuned heads: the network that a version's file makes of the bundle's, and what is never served."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny
from models.conftest import TinyBundle
from safetensors.numpy import load, save

from ram_backend.errors import VersionDamaged
from ram_backend.models.bundle import Bundle, open_bundle, verify
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.network import HEAD_FILE, LOW_RANK_FILE, head_file, load_network, tuned_network
from ram_backend.models.torch_network import load_module

L = len(tiny.TAGS)


def own_head(bundle: Bundle) -> dict[str, np.ndarray]:
    return load_network(bundle, device="cpu").head_tensors()  # type: ignore[attr-defined]


def changed(bundle: Bundle, *, low_rank: bool = False) -> dict[str, bytes]:
    """The file of a head that differs from the bundle's."""
    rng, head = np.random.default_rng(0), own_head(bundle)
    if not low_rank:
        noise = {name: 0.2 * np.abs(array).mean() * rng.normal(size=array.shape) for name, array in head.items()}
        return head_file(HEAD_FILE, {name: (head[name] + noise[name]).astype(np.float32) for name in head})
    factors = {}
    for name in ("layers.0.key.weight", "layers.0.down.weight"):
        out, fan = head[name].shape
        factors[f"{name}.a"] = (0.3 * rng.normal(size=(2, fan)) / fan**0.5).astype(np.float32)
        factors[f"{name}.b"] = rng.normal(size=(out, 2)).astype(np.float32)
    return head_file(LOW_RANK_FILE, factors)


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_tuned_network_computes_what_the_module_does(tiny_bundle: TinyBundle, kind: str, low_rank: bool) -> None:
    bundle = tiny_bundle(kind)
    network = load_network(bundle, device="cpu", precision="fp32")
    files = changed(bundle, low_rank=low_rank)
    pixels = tiny.images(3)
    before = network.logits(network.encode(pixels.numpy()), network.select(range(L)))
    tuned = tuned_network(network, files)
    module = load_module(bundle)
    module.head.load_state_dict({name: torch.tensor(array) for name, array in tuned.head_tensors().items()})
    with torch.inference_mode():
        labels = module.label_block(LabelEmbeddings.open(bundle.path), range(L))
        wanted = module(module.encoder(pixels), labels).numpy()
    tokens = tuned.encode(pixels.numpy())
    np.testing.assert_array_equal(tokens, network.encode(pixels.numpy()))
    found = tuned.logits(tokens, tuned.select(range(L)))
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    assert np.abs(found - before).max() > 1e-3
    np.testing.assert_array_equal(network.logits(tokens, network.select(range(L))), before)
    assert tuned.encoder_id == network.encoder_id
    own, shared = dict(tuned._module.named_parameters()), dict(network._module.named_parameters())
    assert all((own[name] is shared[name]) != name.startswith("head.") for name in own)
    assert tuned._labels is network._labels
    verify(bundle)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_in_half_precision_a_tuned_network_is_close_to_the_exact_one(tiny_bundle: TinyBundle, kind: str) -> None:
    bundle = tiny_bundle(kind)
    files = changed(bundle)
    exact = load_network(bundle, device="cpu", precision="fp32")
    half = load_network(bundle, device="cpu", precision="force-bf16")
    tokens = exact.encode(tiny.images(3).numpy())
    tuned = tuned_network(half, files)
    wanted = tuned_network(exact, files)
    error = np.abs(tuned.logits(tokens, tuned.select(range(L))) - wanted.logits(tokens, wanted.select(range(L)))).max()
    assert 1e-6 < error < 0.15
    types = {name: part.dtype for name, part in half._module.head.named_parameters()}
    assert types == {name: part.dtype for name, part in tuned._module.head.named_parameters()}


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nan": lambda array: np.full_like(array, np.nan),
    "infinite": lambda array: np.append(array.ravel()[1:], np.float32(np.inf)).reshape(array.shape),
    "shape": lambda array: np.zeros((3, *array.shape), dtype=np.float32),
    "type": lambda array: array.astype(np.float64),
}


def spoil(files: dict[str, bytes], how: str) -> dict[str, bytes]:
    """One way in which a version's file can be wrong."""
    ((name, content),) = files.items()
    tensors = load(content)
    first = sorted(tensors)[0]
    if how in WAYS:
        tensors[first] = WAYS[how](tensors[first])
    elif how == "missing":
        del tensors[first]
    elif how == "superfluous":
        tensors["layers.7.key.weight"] = np.zeros((2, 2), dtype=np.float32)
    whole = {"truncated": {name: content[: len(content) // 2]}, "empty": {name: b""}}
    return {**whole, "both": {HEAD_FILE: content, LOW_RANK_FILE: content}}.get(how, {name: save(tensors)})


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("how", [*WAYS, "missing", "superfluous", "truncated", "empty", "both"])
def test_a_damaged_or_foreign_head_is_refused(tiny_bundle: TinyBundle, how: str, low_rank: bool) -> None:
    bundle = tiny_bundle("ram")
    files = changed(bundle, low_rank=low_rank)
    network = load_network(bundle, device="cpu")
    assert tuned_network(network, files) is not network
    assert tuned_network(network, {"delta": b""}) is network
    with pytest.raises(VersionDamaged, match="isn't served") as raised:
        tuned_network(network, spoil(files, how))
    assert "\n" not in str(raised.value)


def test_the_head_of_another_bundle_is_refused(tiny_bundle: TinyBundle, starter_data: Path) -> None:
    files = changed(tiny_bundle("ram"))
    starter_network = load_network(open_bundle(starter_data / "bundles" / "starter"), threads=1)
    with pytest.raises(VersionDamaged, match="StarterNetwork takes none"):
        tuned_network(starter_network, files)
    with pytest.raises(VersionDamaged, match="another head"):
        tuned_network(load_network(tiny_bundle("tag2text"), device="cpu"), files)


def test_finite_weights_whose_logits_are_not_are_refused(tiny_bundle: TinyBundle) -> None:
    huge = own_head(tiny_bundle("ram"))
    huge["classifier.weight"][:] = 3e38
    huge["classifier.weight"][0, ::2] = -3e38
    huge["layers.1.output_norm.weight"] *= 1e3
    with pytest.raises(VersionDamaged, match="not finite"):
        tuned_network(load_network(tiny_bundle("ram"), device="cpu"), head_file(HEAD_FILE, huge))
