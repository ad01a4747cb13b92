"""The losses of small networks against their definition, stored numbers, and what of a network learns."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import small
from models import reference, tiny

from ram_backend.errors import InputError
from ram_backend.finetuning.recipe import Batch, Recipe
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.network import load_network
from ram_backend.models.starter.export import StarterModule
from ram_backend.models.starter.install import HEAD_WEIGHTS, PACKAGED
from ram_backend.tagging.subset import resolve_subset, whole_vocabulary

STORED: dict[str, dict[str, float]] = {
    "ram": {"loss": 25.77648, "tag": 3.090132, "caption": 12.22464, "distillation": 1.327196},
    "ram_plus": {"loss": 114.3804, "tag": 3.081606, "distillation": 1.327196, "alignment": 1.266595},
    "tag2text": {"loss": 24.4924, "tag": 2.197516, "caption": 12.2462},
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Opens the small bundle of a kind, with a captioner where there is one."""
    return partial(small.import_bundle, tmp_path_factory.mktemp("recipes"))


def recipe_of(bundle: Bundle, *, captions: bool = False, **options: Any) -> Recipe:
    return Recipe(bundle, whole_vocabulary(bundle), small.options(**options), captions=captions)


def batch_of(kind: str, images: int = 3) -> Batch:
    labels = torch.from_numpy(reference.draw("labels", (images, len(tiny.TAGS)), 0, 1, "tiny:") > 0.3).float()
    features = torch.from_numpy(reference.draw("clip", (images, tiny.WIDTH), 0, 0.4, "tiny:"))
    batch = Batch(tiny.images(images), labels, torch.ones_like(labels))
    if kind != "tag2text":
        batch = batch._replace(clip_features=features)
    if kind == "ram_plus":
        texts = torch.nn.functional.normalize(features.flip(0), dim=1)
        return batch._replace(texts=texts, matches=torch.eye(images))
    captions = ["a picture of a dog", "a picture of two cats in a red car", "a picture of the sky"][:images]
    return batch._replace(captions=captions, caption_tags=[["dog"], ["cat", "red car"], ["sky"]][:images])


def definition(logits: np.ndarray, labels: np.ndarray, gamma: int) -> float:
    """The asymmetric loss as the paper writes it, summed over tags, per image."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    shifted = np.maximum(p - 0.05, 0)
    pairs = np.where(labels > 0, np.log(p), shifted**gamma * np.log(1 - shifted))
    return float(-pairs.sum() / len(logits))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_losses_of_the_authors_logits_and_tokens(kind: str, bundles: Callable[[str], Bundle]) -> None:
    batch, recipe = batch_of(kind), recipe_of(bundles(kind), captions=True).eval()
    with torch.no_grad():
        found = {name: float(value) for name, value in recipe(batch).items()}
    logits, tokens = (reference.stored("small", f"{kind}_{part}") for part in ("logits", "tokens"))
    assert found["tag"] == pytest.approx(definition(logits, batch.labels.numpy(), 7), rel=1e-4)
    if batch.clip_features is not None:
        distance = np.abs(tokens[:, 0] - batch.clip_features.numpy()).mean()
        assert found["distillation"] == pytest.approx(distance, rel=1e-4)
    assert found == pytest.approx(STORED[kind], rel=1e-4)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_checkpointing_changes_no_gradient(
    kind: str, bundles: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ram_backend.finetuning.recipe.TAGS_AT_ONCE", 3)
    gradients = []
    for checkpointing in (False, True):
        recipe = recipe_of(bundles(kind), captions=True, checkpointing=checkpointing).train()
        recipe(batch_of(kind))["loss"].backward()
        gradients.append({name: part.grad for name, part in recipe.named_parameters() if part.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("part", "learning"),
    [
        ("head", {"head"}),
        ("projection", {"head", "encoder.projection"}),
        ("last-stage", {"head", "encoder.projection", "encoder.swin.norm", "encoder.swin.layers.2"}),
    ],
)
def test_a_part_learns_and_the_rest_is_frozen(part: Any, learning: set[str], bundles: Callable[[str], Bundle]) -> None:
    recipe = recipe_of(bundles("ram_plus"), part=part)
    recipe(batch_of("ram_plus"))["loss"].backward()
    for name, parameter in recipe.network.named_parameters():
        learns = name == "reweight_scale" or any(name.startswith(f"{each}.") for each in learning)
        assert (parameter.grad is not None) == learns, name


def test_captioner_and_head_share_their_layers_and_tied_words(bundles: Callable[[str], Bundle]) -> None:
    recipe = recipe_of(bundles("tag2text"), captions=True, part="head")
    shared = recipe.captioner.tag_encoder.encoder.layer[1].intermediate.dense.weight
    assert shared is recipe.network.head.layers[1].up.weight
    decoder = recipe.captioner.text_decoder
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight
    recipe(batch_of("tag2text"))["loss"].backward()
    assert shared.grad is not None
    assert decoder.cls.predictions.bias.grad is not None


def test_the_focusing_weight_has_no_gradient(bundles: Callable[[str], Bundle]) -> None:
    """Of a wrong tag alone: the gradient is q^7 / (1 - q) times that of the probability."""
    recipe = Recipe(bundles("ram"), resolve_subset(bundles("ram"), ["dog"]), small.options(part="head"))
    batch = batch_of("ram", 1)
    bias = recipe.network.head.classifier.bias
    recipe(Batch(batch.images, torch.zeros(1, 1), torch.ones(1, 1)))["loss"].backward()
    network = load_network(bundles("ram"), device="cpu")
    logits = network.logits(network.encode(batch.images.numpy()), network.select([tiny.TAGS.index("dog")]))
    p = torch.from_numpy(logits).sigmoid()
    q = (p - 0.05).clamp_min(0)
    torch.testing.assert_close(bias.grad, (26 * q**7 / (1 - q) * p * (1 - p)).flatten(), rtol=1e-4, atol=0)


def test_a_part_that_a_bundle_lacks(bundles: Callable[[str], Bundle]) -> None:
    with pytest.raises(InputError, match="has no projection after its encoder: use --train head or last-stage"):
        recipe_of(bundles("tag2text"), part="projection")


def test_the_starter_s_torch_form_gives_its_logits_and_learns_by_cross_entropy(starter_data: Path) -> None:
    bundle = open_bundle(starter_data / "bundles" / "starter")
    subset = resolve_subset(bundle, ["cat", "dog", "snow"])
    module = StarterModule(bundle, PACKAGED / HEAD_WEIGHTS)
    network = load_network(bundle, device="cpu")
    pixels = reference.draw("pixels", (2, 3, 260, 260), 0, 0.5, "tiny:")
    labels = module.label_block(LabelEmbeddings.open(bundle.path), subset.entries)
    with torch.no_grad():
        found = module(module.encoder(torch.from_numpy(pixels)), labels)
    np.testing.assert_allclose(found, network.logits(network.encode(pixels), network.select(subset.entries)), atol=1e-3)
    recipe, right = Recipe(bundle, subset, small.options(part="head")).eval(), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    with torch.no_grad():
        loss = recipe(Batch(torch.from_numpy(pixels), right, torch.ones(2, 3)))["tag"]
    log_odds = torch.from_numpy(subset.calibration.log_odds(found.numpy()))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(log_odds, right, reduction="sum") / 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)  # a proper score: calibrated scores stay so
