"""From a bundle to a tuned head and back: what training promised is what a tagger on the tuned network says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from models import reference
from models import tiny as tiny_files

from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.models.head_source import open_head
from ram_backend.models.importing import import_checkpoint
from ram_backend.models.network import load_network
from ram_backend.models.tuned import tuned_network
from ram_backend.tagging.subset import Subset, resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.training.tuning import TuningOptions, tune_head

IMAGES = 12
QUICK = {"epochs": 2, "batch": 6, "validation": 0.0, "replay_tags": 3, "learning_rate": 1e-2, "device": "cpu"}


def new_bundle(kind: str, folder: Path) -> Bundle:
    file, tags = tiny_files.write(folder, kind)
    return import_checkpoint(file, tags, name=kind, bundles_dir=folder / "bundles", **tiny_files.options(kind))


def material_of(tagger: Tagger, tokens: np.ndarray) -> TrainingSet:
    found = tagger.log_odds(tagger.score(tokens.astype(np.float32)))
    labels = np.random.default_rng(0).random(found.shape) < 0.5
    return TrainingSet(
        tags=tagger.tags,
        features=tokens[:, 0].astype(np.float32),
        tokens=tokens,
        base=found,
        incumbent=found,
        labels=labels,
        weights=np.ones(found.shape, dtype=np.float32),
        content=tuple(str(number) for number in range(len(tokens))),
        phash=np.arange(len(tokens), dtype=np.uint64),
        ground_truth=np.zeros(len(tokens), dtype=bool),
        known_tags=np.ones(len(tagger.tags), dtype=bool),
        base_thresholds=tagger.thresholds,
    )


def check(bundle: Bundle, subset: Subset, tokens: np.ndarray, rank: int | None) -> None:
    network = load_network(bundle, device="auto", precision="fp32", threads=1)
    material = material_of(Tagger(bundle, network, subset, token_dtype="float16"), tokens)
    source = open_head(bundle, subset.entries, subset.calibration.slope)
    options = TuningOptions(rank=rank, **QUICK)  # type: ignore[arg-type]
    tuned = tune_head(material, np.arange(len(tokens)), source, options=options)
    tagger = Tagger(bundle, tuned_network(network, tuned.files), subset, token_dtype="float16")
    found = tagger.log_odds(tagger.score(tokens.astype(np.float32)))
    np.testing.assert_allclose(found, tuned.log_odds, atol=2e-4)
    assert np.abs(found - material.base).max() > 0.01


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", tiny_files.KINDS)
def test_a_torch_bundle_is_tuned_and_served(kind: str, rank: int | None, tmp_path: Path) -> None:
    bundle = new_bundle(kind, tmp_path)
    subset = resolve_subset(bundle, ["dog", "sky", "cat"])
    network = load_network(bundle, device="cpu")
    pixels = tiny_files.images(IMAGES, salt="tuning:").numpy()
    check(bundle, subset, network.encode(pixels).astype(np.float16), rank)


def test_new_tags_with_several_descriptions_are_tuned(tmp_path: Path) -> None:
    bundle = new_bundle("ram_plus", tmp_path)
    described = {"tabby": reference.draw("new", (2, tiny_files.WIDTH), 0, 1)}

    class Encoder:
        id = "none"

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            raise AssertionError("everything is described")

    subset = resolve_subset(bundle, ["dog", "tabby"], Encoder(), described=described)  # type: ignore[arg-type]
    network = load_network(bundle, device="cpu")
    pixels = tiny_files.images(IMAGES, salt="tuning:").numpy()
    check(bundle, subset, network.encode(pixels).astype(np.float16), None)


@pytest.mark.parametrize("rank", [None, 4])
def test_the_starter_is_tuned_and_served(starter_data: Path, rank: int | None) -> None:
    bundle = open_bundle(starter_data / "bundles" / "starter")
    subset = resolve_subset(bundle, ["dog", "mountain", "teacup", "red"])
    rng = np.random.default_rng(3)
    tokens = np.sqrt(rng.exponential(0.3, size=(IMAGES, 26, 1454))).astype(np.float16)
    check(bundle, subset, tokens, rank)
