"""What a tuned head does to tags outside the project."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from models import tiny

from ram_backend.errors import VersionDamaged
from ram_backend.gate.off_target import measure_shift
from ram_backend.models.bundle import Bundle
from ram_backend.models.head_checkpoint import open_head
from ram_backend.models.network import load_network
from ram_backend.models.tuned import head_files
from ram_backend.tagging.subset import resolve_subset, whole_vocabulary
from ram_backend.training.off_target_scores import off_target_scores, outside_subset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from ram_backend.models.importing import import_checkpoint

    folder = tmp_path_factory.mktemp("ram")
    file, tags = tiny.write(folder, "ram")
    return import_checkpoint(file, tags, name="ram", bundles_dir=folder / "bundles", **tiny.options("ram"))


@pytest.fixture(scope="module")
def figures(bundle: Bundle) -> Callable[[float], tuple[float, float]]:
    """Relative move and agreement of a head whose weights are off by so much, on images of more than one batch."""
    asked = resolve_subset(bundle, ["cat", "dog"])
    network = load_network(bundle, device="cpu")
    tokens = np.repeat(network.encode(tiny.images(4).numpy()), 20, axis=0).astype(np.float16)
    source = open_head(bundle, asked.entries, asked.calibration.slope)

    def measure(noise: float) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        head = {
            name: (array + noise * np.abs(array).mean() * rng.normal(size=array.shape)).astype(np.float32)
            for name, array in source.tensors.items()
        }
        guard = off_target_scores(bundle, network, head_files(head), outside_subset(bundle, asked), tokens)
        assert guard.bundle.shape == (80, len(tiny.TAGS) - 2)
        result = measure_shift(guard)
        return result.relative_move, result.agreement

    return measure


def test_the_bundle_s_own_head_does_nothing_and_a_bent_one_does(
    figures: Callable[[float], tuple[float, float]],
) -> None:
    assert figures(0.0)[0] == 0
    small, large = figures(0.02)[0], figures(0.5)[0]
    assert 0 < small < large


def test_outside_tags_are_those_that_nobody_asked_for(bundle: Bundle) -> None:
    asked = resolve_subset(bundle, ["cat", "sky"])
    outside = outside_subset(bundle, asked)
    assert set(outside.names) == set(tiny.TAGS) - {"cat", "sky"}
    np.testing.assert_array_equal(outside.thresholds, bundle.vocabulary.thresholds[list(outside.entries)])
    some = outside_subset(bundle, asked, count=2, seed=1)
    assert len(some.names) == 2
    assert some.names == outside_subset(bundle, asked, count=2, seed=1).names


def test_a_project_that_asks_for_everything_has_nothing_to_guard(bundle: Bundle) -> None:
    network = load_network(bundle, device="cpu")
    whole = whole_vocabulary(bundle)
    outside = outside_subset(bundle, whole)
    assert outside.names == ()
    source = open_head(bundle, whole.entries, whole.calibration.slope)
    tokens = network.encode(tiny.images(2).numpy())
    guard = off_target_scores(bundle, network, head_files(dict(source.tensors)), outside, tokens)
    assert measure_shift(guard).harmless


def test_a_damaged_head_is_refused(bundle: Bundle) -> None:
    network = load_network(bundle, device="cpu")
    with pytest.raises(VersionDamaged):
        off_target_scores(
            bundle,
            network,
            {"head.safetensors": b"no head"},
            outside_subset(bundle, resolve_subset(bundle, ["cat"])),
            np.zeros((1, *network.token_shape), dtype=np.float16),
        )
