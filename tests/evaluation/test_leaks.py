"""Leaks: the same and near-same images among those that a bundle or a version has learned from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ram_backend.evaluation.leaks import NEAR, SAME, TrainingImages, bundle_training_images
from ram_backend.models.bundle import TRAINING_IMAGES, open_bundle
from ram_backend.models.starter.install import starter_digest

HASH = 0xF0F0_1234_ABCD_0077


def test_equal_bytes_and_hashes_within_eight_bits() -> None:
    training = TrainingImages(frozenset({("a" * 64, HASH), ("b" * 64, 0)}))
    near, far = HASH ^ 0b1111_1111, HASH ^ 0b1_1111_1111
    sha256 = ["a" * 64, "c" * 64, "d" * 64, "e" * 64, "b" * 64]
    phash = np.array([HASH, near, far, 0, 0], dtype=np.uint64)
    assert training.leaks(sha256, phash) == {0: SAME, 1: NEAR, 4: SAME}, "pictures of one colour are not alike"
    assert TrainingImages(frozenset()).leaks(sha256, phash) == {}


def test_the_starter_s_list_ships_and_is_in_its_bundle(starter_data: Path, tmp_path: Path) -> None:
    bundle = open_bundle(starter_data / "bundles" / "starter")
    listed = bundle_training_images(bundle)
    assert listed is not None
    assert len(listed.hashes) > 3000
    older = cast(Any, SimpleNamespace(path=tmp_path, kind="starter", digest=starter_digest()))
    assert bundle_training_images(older) == listed, "bundles of earlier releases hold no list"
    official = cast(Any, SimpleNamespace(path=tmp_path, kind="ram", digest="d" * 64))
    assert bundle_training_images(official) is None
    (tmp_path / TRAINING_IMAGES).write_text(f"{'a' * 64}\n{'b' * 64} 00000000000000ff\n")
    assert bundle_training_images(official) == TrainingImages(frozenset({("a" * 64, 0), ("b" * 64, 255)}))
