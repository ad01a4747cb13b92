"""The released files' keys and shapes, against the published manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import reference, tiny

from ram_backend.models import official
from ram_backend.models.ram import TaggingNetwork

TAGS = {"ram": 4585, "ram_plus": 4585, "tag2text": 3429}


def kept(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if official.part_of(key) == "tagging"}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_kind_and_numbers_are_read_from_shapes(kind: str) -> None:
    shapes = tiny.shapes(kind)
    assert official.detect_kind(shapes, len(tiny.TAGS)) == kind
    read = official.read_architecture(kind, shapes, len(tiny.TAGS), tiny.IMAGE)  # type: ignore[arg-type]
    assert read == tiny.architecture(kind)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_tensor_of_our_network_has_an_official_key(kind: str) -> None:
    names = official.our_names(kind, tiny.RELEASED[kind])  # type: ignore[arg-type]
    each = official.DESCRIPTIONS_PER_TAG if kind == "ram_plus" else 1
    shapes = official.expected_shapes(kind, tiny.RELEASED[kind], TAGS[kind], each)  # type: ignore[arg-type]
    assert names.keys() == shapes.keys() - {official.label_key(kind)}  # type: ignore[arg-type]
    with torch.device("meta"):
        assert set(names.values()) == set(TaggingNetwork(tiny.RELEASED[kind]).state_dict())
    assert names["visual_encoder.layers.0.downsample.norm.bias"] == "encoder.swin.layers.1.downsample.norm.bias"


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("tag_encoder.encoder.layer.1.crossattention.self.key.bias", "tied"),
        ("text_decoder.cls.predictions.decoder.weight", "tied"),
        ("tag_encoder.encoder.layer.1.attention.self.key.bias", "captioner"),
        ("tag_encoder.encoder.layer.10.output.dense.bias", "captioner"),
        ("text_decoder.cls.predictions.bias", "captioner"),
        ("tag_encoder.embeddings.position_ids", "structural"),
        ("fc.bias", "tagging"),
    ],
)
def test_the_part_of_a_tensor_is_seen_from_its_key(key: str, part: str) -> None:
    assert official.part_of(key) == part


def test_ram_plus_without_its_scale_is_not_taken_for_ram() -> None:
    shapes = official.expected_shapes("ram_plus", tiny.RELEASED["ram_plus"], 4585, 51)
    del shapes["reweight_scale"]
    assert official.detect_kind(shapes, 4585) == "ram_plus"


@pytest.mark.shared
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_released_architectures_have_the_published_keys(shared: Path, kind: str) -> None:
    _, tensors = reference.read_manifest(shared / "ram-reference" / f"manifest.{kind}.json")
    shapes = {key: tuple(entry["shape"]) for key, entry in tensors.items()}
    assert official.detect_kind(shapes, TAGS[kind]) == kind
    architecture = official.read_architecture(kind, shapes, TAGS[kind], 384)  # type: ignore[arg-type]
    assert architecture == tiny.RELEASED[kind]
    each = official.DESCRIPTIONS_PER_TAG if kind == "ram_plus" else 1
    assert official.expected_shapes(kind, architecture, TAGS[kind], each) == kept(shapes)  # type: ignore[arg-type]
