"""The recipe for reference weights gives the published vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from models import reference


def test_seeds_and_sums_of_the_published_vectors() -> None:
    assert reference.seed_of("fc.bias") == 0x87091E5711A86FD7
    assert reference.sums(0x87091E5711A86FD7, 0, 4).tolist() == [29910, 37106, 39969, -87481]
    assert reference.sums(reference.seed_of("image_proj.weight"), 0, 4).tolist() == [-80140, -3665, -9343, -38701]
    assert reference.sums(reference.seed_of("label_embed"), 0, 4).tolist() == [15777, -72382, -16597, 25760]


def test_values_are_rounded_once_from_float64() -> None:
    drawn = reference.draw("image_proj.weight", (3,), 0.0, 1536**-0.5)
    published = [-0.054042376577854156, -0.002471491228789091, -0.006300447974354029]
    np.testing.assert_array_equal(drawn, np.float32(published))


@pytest.mark.shared
@pytest.mark.parametrize("model", ["ram", "ram_plus", "tag2text"])
def test_drawn_tensors_have_the_published_hashes(shared: Path, model: str) -> None:
    salt, tensors = reference.read_manifest(shared / "ram-reference" / f"manifest.{model}.json")
    small = {
        key: entry
        for key, entry in tensors.items()
        if entry["kind"] != "structural" and np.prod(entry["shape"], dtype=int) < 20_000
    }
    assert len(small) > 200
    for key, entry in small.items():
        drawn = reference.draw(entry.get("tied_with") or key, entry["shape"], entry["mu"], entry["sigma"], salt)
        assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == entry["sha256_16"], key
