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


def test_the_part_of_a_tensor_is_seen_from_its_key() -> None:
    parts = {
        "tag_encoder.encoder.layer.1.crossattention.self.key.bias": "tied",
        "tag_encoder.encoder.layer.1.attention.self.key.bias": "captioner",
        "tag_encoder.encoder.layer.10.output.dense.bias": "captioner",
        "text_decoder.cls.predictions.decoder.weight": "tied",
    }
    assert {key: official.part_of(key) for key in parts} == parts
