"""The released files' keys and shapes, against the published manifests."""

import pytest
import torch
from models import tiny

from ram_backend.models import official
from ram_backend.models.ram import TaggingNetwork

TAGS = {"ram": 4585, "ram_plus": 4585, "tag2text": 3429}


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
