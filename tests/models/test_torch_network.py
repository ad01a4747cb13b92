"""Imported bundles on torch: the authors' logits, for any images, any tags, in any precision."""

import numpy as np
import pytest
import torch
from models import reference, tiny
from models.conftest import TinyBundle

from ram_backend.errors import SettingsError, TextEncoderUnavailable, VocabularyError
from ram_backend.models import torch_network
from ram_backend.models.head import HeadConfig, TaggingHead
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.network import encoder_id_of, load_network

L = len(tiny.TAGS)
PIXELS = tiny.images(3).numpy()


def expected(kind: str) -> np.ndarray:
    return reference.stored("small", f"{kind}_logits")


@pytest.mark.parametrize("pairs", [torch_network.PAIRS_AT_ONCE, 6])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_authors_logits(tiny_bundle: TinyBundle, kind: str, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images alone or together; tags in any order, also in pieces of so many pairs."""
    monkeypatch.setattr(torch_network, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(torch_network, "RESIDENT_ROWS", 1000 * (pairs > 6))
    network = load_network(tiny_bundle(kind), device="cpu")
    tokens = network.encode(PIXELS)
    assert (tokens.shape, tokens.dtype) == ((3, *network.token_shape), np.float32)
    alone = np.concatenate([network.encode(PIXELS[i : i + 1]) for i in range(3)])
    for tags in (range(L), [3], [6, 0, 4], [2, 2], [np.int64(5)], []):
        queries, wanted = network.select([*tags]), expected(kind)[:, [int(tag) for tag in tags]]
        for some in (network.logits(tokens, queries), network.logits(alone, queries)):
            assert some.dtype == np.float32
            np.testing.assert_allclose(some, wanted, atol=1e-5, rtol=0)
    assert network.logits(network.encode(PIXELS[:0]), network.select(range(L))).shape == (0, L)


@pytest.mark.parametrize("resident", [0, 10_000])
def test_only_asked_tags_are_read(tiny_bundle: TinyBundle, resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    original = LabelEmbeddings.of

    def watched(labels: LabelEmbeddings, tag: int) -> np.ndarray:
        read.add(tag)
        return original(labels, tag)

    monkeypatch.setattr(LabelEmbeddings, "of", watched)
    monkeypatch.setattr(torch_network, "RESIDENT_ROWS", resident)
    network = load_network(tiny_bundle("ram_plus"), device="cpu")
    network.logits(network.encode(PIXELS), network.select([4, 1]))
    assert read == {1, 4}


def test_new_tags_of_ram_are_scored_from_their_text(tiny_bundle: TinyBundle) -> None:
    rows = reference.draw("new", (4, tiny.WIDTH), 0, 1)
    network = load_network(tiny_bundle("ram"), device="cpu")
    logits = network.logits(network.encode(PIXELS), network.select([rows[:1], 2, rows[1:2]]))
    new = reference.stored("small", "ram_new")
    np.testing.assert_allclose(logits, np.stack([new[:, 0], expected("ram")[:, 2], new[:, 1]], 1), atol=1e-5, rtol=0)
    several = network.logits(network.encode(PIXELS), network.select([rows]))
    mean = rows.mean(0) / np.linalg.norm(rows.mean(0))
    one = network.logits(network.encode(PIXELS), network.select([mean[None]]))
    np.testing.assert_allclose(several, one, atol=1e-5)


def test_new_tags_of_ram_plus_may_have_any_number_of_descriptions(tiny_bundle: TinyBundle) -> None:
    rows = reference.draw("new", (tiny.EACH, tiny.WIDTH), 0, 1)
    network = load_network(tiny_bundle("ram_plus"), device="cpu")
    tokens = network.encode(PIXELS)
    logits = network.logits(tokens, network.select([rows, 2, rows[:1], rows[:2]]))
    new = reference.stored("small", "ram_plus_new")  # the second: equal descriptions, which count as one
    wanted = np.stack([new[:, 0], expected("ram_plus")[:, 2], new[:, 1]], 1)
    np.testing.assert_allclose(logits[:, :3], wanted, atol=1e-5, rtol=0)
    twice = network.logits(tokens, network.select([np.concatenate([rows[:2], rows[:2]])]))
    np.testing.assert_allclose(logits[:, 3:], twice, atol=1e-5, rtol=0)


def test_what_cannot_be_selected_is_refused(tiny_bundle: TinyBundle) -> None:
    network = load_network(tiny_bundle("ram"), device="cpu")
    for tag in (7, -1):
        with pytest.raises(VocabularyError, match=f"no tag {tag}"):
            network.select([tag])
    for shape in ((1, 5), (24,), (0, 24)):
        with pytest.raises(VocabularyError, match=r"\(k, 24\)"):
            network.select([np.zeros(shape, dtype=np.float32)])
    with pytest.raises(TextEncoderUnavailable, match="without a text encoder"):
        load_network(tiny_bundle("tag2text"), device="cpu").select([np.zeros((1, 32), dtype=np.float32)])


@pytest.mark.parametrize("precision", ["force-bf16", "force-fp16"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_half_precision_is_close_and_has_another_id(tiny_bundle: TinyBundle, kind: str, precision: str) -> None:
    half = load_network(tiny_bundle(kind), device="cpu", precision=precision)  # type: ignore[arg-type]
    weights = load_network(tiny_bundle(kind), device="cpu").encoder_id.removesuffix("-torch-cpu-fp32")
    assert half.encoder_id == f"{weights}-torch-cpu-{precision.removeprefix('force-')}"
    tokens = half.encode(PIXELS)
    assert tokens.dtype == np.float32
    logits = half.logits(tokens, half.select(range(L)))
    error = np.abs(logits - expected(kind)).max()
    assert 1e-6 < error < (0.15 if precision == "force-bf16" else 0.02)


def test_a_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="RAM_DEVICE"):
        torch_network.torch_device("cuda")


def test_a_precision_that_the_cpu_only_emulates_is_said_and_not_used_unless_forced(
    tiny_bundle: TinyBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tiny_bundle("ram")
    monkeypatch.setattr(torch_network.platform, "machine", lambda: "x86_64")  # type: ignore[attr-defined]
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert load_network(bundle, device="cpu", precision="bf16").encoder_id.endswith("-cpu-fp32")
    assert encoder_id_of(bundle, device="cpu", precision="bf16").endswith("-cpu-fp32")
    assert "no instructions for bf16" in caplog.text
    assert "force-bf16" in caplog.text
    caplog.clear()
    assert load_network(bundle, device="cpu", precision="force-bf16").encoder_id.endswith("-cpu-bf16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert load_network(bundle, device="cpu", precision="bf16").encoder_id.endswith("-cpu-bf16")
    assert caplog.text == ""


def test_the_number_of_threads_is_that_of_the_last_loaded(tiny_bundle: TinyBundle) -> None:
    before = torch.get_num_threads()
    load_network(tiny_bundle("ram"), device="cpu", threads=before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_evidence_of_a_tag_is_its_own(tiny_bundle: TinyBundle, kind: str) -> None:
    """Whatever other tags are asked for, and never negative; one cell for each image token but the mean."""
    network = load_network(tiny_bundle(kind), device="cpu")
    tokens = network.encode(PIXELS[:2])
    maps = network.evidence(tokens, network.select([0, 2, 5]))
    assert maps.shape == (2, 4, 4, 3)
    assert (maps >= 0).all()
    assert maps.std(axis=(1, 2)).min() > 0
    np.testing.assert_allclose(network.evidence(tokens[1:], network.select([2]))[0, ..., 0], maps[1, ..., 1], atol=1e-6)


def test_relevance_is_attention_times_its_gradient() -> None:
    """Against numerical derivatives of the logit by the attention weights of a small head."""
    torch.manual_seed(1)
    head = TaggingHead(HeadConfig(token_width=8, hidden=12, heads=2, layers=2, intermediate=16, label_width=6)).double()
    tokens, queries = torch.randn(1, 5, 8).double(), head.queries(torch.randn(3, 6).double())
    relevance = head.relevance(tokens, queries)
    assert relevance.shape == (1, 3, 5)
    memory, last = head.keys_values(tokens), head.layers[-1]
    with torch.no_grad():
        first = head.layers[0](queries.hidden[None], queries.projected[None], memory[0])
        weights = last.attention(last.query(first), memory[1])

        def logit(changed: torch.Tensor, tag: int) -> float:
            hidden = last.after_attention(first, changed @ memory[1][1])
            return float(head.classify(hidden, queries)[0, tag])

        step, expected = 1e-3, torch.zeros_like(weights)
        for place in np.ndindex(*weights.shape):
            up, down = weights.clone(), weights.clone()
            up[place] += step
            down[place] -= step
            expected[place] = (logit(up, place[2]) - logit(down, place[2])) / (2 * step)
    torch.testing.assert_close(relevance, (weights * expected.relu()).mean(dim=1), atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(
        head(tokens, queries), head.classify(last.after_attention(first, weights @ memory[1][1]), queries)
    )
