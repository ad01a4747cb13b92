"""The full-size networks against the numbers that the authors' own code gave with the same weights.

Weights are drawn by the recipe, written as an official file, imported, and run as any bundle is. The small siblings of
these tests are in test_torch_network.py and test_importing.py.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from models import reference, tiny
from PIL import Image

from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network, load_network

pytestmark = [pytest.mark.shared, pytest.mark.slow]

TOLERANCE = 1e-4
THREADS = 2


@dataclass
class Full:
    """One full-size model: its bundle, and what the official code computed with it."""

    model: str
    folder: Path
    salt: str
    bundle: Bundle
    memory: int
    expected: dict[str, np.ndarray]

    @cached_property
    def network(self) -> Network:
        return load_network(self.bundle, device="cpu", precision="fp32", threads=THREADS)

    @cached_property
    def images(self) -> list[Image.Image]:
        names = json.loads((self.folder / "expected.json").read_text())["images"]
        return [Image.open(self.folder / "images" / name) for name in names]

    @cached_property
    def pixels(self) -> np.ndarray:
        return np.stack([self.bundle.preprocessing(image) for image in self.images])

    @cached_property
    def tokens(self) -> np.ndarray:
        """In batches of 3, 4 and 1."""
        return np.concatenate([self.network.encode(part) for part in np.split(self.pixels, [3, 7])])

    @cached_property
    def logits(self) -> np.ndarray:
        return self.network.logits(self.tokens, self.network.select(range(len(self.bundle.vocabulary))))


@pytest.fixture(scope="module", params=tiny.KINDS)
def full(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    model: str = request.param
    folder = shared / "ram-reference"
    with np.load(folder / f"expected.{model}.npz") as arrays:
        expected = dict(arrays)
    with reference.full_size(shared, model, tmp_path_factory.mktemp(model), captions=False) as (bundle, salt, memory):
        yield Full(model, folder, salt, bundle, memory, expected)


def test_importing_needs_less_than_half_as_much_again_as_the_kept_weights(full: Full) -> None:
    kept = sum(entry["bytes"] for name, entry in full.bundle.manifest["files"].items() if "safetensors" in name)
    assert full.memory < 1.5 * kept


def test_logits_and_decisions_of_every_image_and_tag(full: Full) -> None:
    np.testing.assert_allclose(full.logits, full.expected["logits"], atol=TOLERANCE, rtol=0)
    scores = full.bundle.calibration.scores(full.logits)
    on = scores > full.bundle.vocabulary.thresholds
    asked = np.ones(len(full.bundle.vocabulary), dtype=bool)
    asked[full.bundle.manifest["provenance"]["deleted_tags"]] = False  # the reference is from before their removal
    np.testing.assert_array_equal(on[:, asked], full.expected["above_threshold"][:, asked])
    assert not on[:, ~asked].any()
    thresholds = full.bundle.vocabulary.thresholds
    np.testing.assert_allclose(thresholds[asked], full.expected["class_threshold"][asked], atol=1e-7)


@pytest.mark.parametrize("full", ["ram", "ram_plus"], indirect=True)
def test_tags_from_other_embeddings(full: Full) -> None:
    each = 51 if full.model == "ram_plus" else 1
    rows = reference.draw("aux:openset_label_embed", (200, each, 512), 0.0, 512**-0.5, full.salt)
    logits = full.network.logits(full.tokens, full.network.select(list(rows)))
    np.testing.assert_allclose(logits, full.expected["openset_logits"], atol=TOLERANCE, rtol=0)


def test_bf16_keeps_the_top_tags(full: Full) -> None:
    half = load_network(full.bundle, device="cpu", precision="force-bf16", threads=THREADS)
    (logits,) = half.logits(half.encode(full.pixels[:1]), half.select(range(len(full.bundle.vocabulary))))
    best = set(np.argsort(-logits)[:20]) & set(np.argsort(-full.expected["logits"][0])[:20])
    assert len(best) >= 18
