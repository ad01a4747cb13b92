from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from models import tiny_clip
from PIL import Image
from safetensors.torch import load_file, save_file

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.models.clip_image import ClipImageEncoder, _image_key, build_image_tower, load_clip_image_encoder
from ram_backend.vocabulary.clip_weights import MODEL


@pytest.fixture(autouse=True)
def small_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: tiny_clip.CONFIG if name == MODEL else None)


def pixels(count: int = 5) -> np.ndarray:
    side = tiny_clip.IMAGE
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_features_are_clips(prefix: str, tmp_path: Path) -> None:
    encoder = load_clip_image_encoder(tiny_clip.write(tmp_path / "clip.safetensors", prefix), device="cpu")
    with torch.no_grad():
        expected = tiny_clip.clip().encode_image(torch.from_numpy(pixels())).numpy()
    found = encoder.encode(pixels())
    assert (found.dtype, found.shape, encoder.dim) == (np.float32, (5, tiny_clip.DIM), tiny_clip.DIM)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_plain_gelu_gives_other_features(tmp_path: Path) -> None:
    own = load_clip_image_encoder(tiny_clip.write(tmp_path / "clip.safetensors"), device="cpu")
    plain = build_image_tower({**tiny_clip.CONFIG, "quick_gelu": False})
    plain.load_state_dict(own._tower.state_dict())
    assert np.abs(ClipImageEncoder(plain).encode(pixels()) - own.encode(pixels())).max() > 1e-3


def test_the_whole_network_s_keys_are_the_file_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    config = open_clip.get_model_config(MODEL)
    with torch.device("meta"):
        tower, whole = build_image_tower(config), open_clip.model.CLIP(**config)
    ours = {key: value.shape for key, value in tower.state_dict().items()}
    assert ours == {_image_key(key): value.shape for key, value in whole.state_dict().items() if _image_key(key)}
    assert (tower.output_dim, tower.image_size) == (512, (224, 224))


def test_images_are_prepared_as_clip_wants_them(tmp_path: Path) -> None:
    encoder = load_clip_image_encoder(tiny_clip.write(tmp_path / "clip.safetensors"), device="cpu")
    reference = open_clip.image_transform(
        tiny_clip.IMAGE, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    noise = np.random.default_rng(1).integers(0, 256, size=(90, 90, 3), dtype=np.uint8)
    square = Image.fromarray(noise)
    np.testing.assert_allclose(encoder.preprocessing(square), reference(square).numpy(), atol=1e-6)
    wide = Image.fromarray(noise[:9, :13]).resize((130, 90), Image.Resampling.BICUBIC)
    error = np.abs(encoder.preprocessing(wide) - reference(wide).numpy()).mean()
    assert error < 0.02, "Pillow crops before it scales; bilinear scaling would be .03 away"


def test_equal_weights_have_equal_names(tmp_path: Path) -> None:
    path = tiny_clip.write(tmp_path / "clip.safetensors")
    first = load_clip_image_encoder(path, device="cpu")
    state = load_file(str(path))
    torch.save(state, tmp_path / "clip.pt")
    assert load_clip_image_encoder(tmp_path / "clip.pt", device="cpu").id == first.id
    state["visual.proj"][0, 0] += 1
    save_file(state, str(path))
    assert load_clip_image_encoder(path, device="cpu").id != first.id


def test_a_file_without_the_tower_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    state = {key: value.contiguous() for key, value in tiny_clip.clip().state_dict().items()}
    save_file({key: value for key, value in state.items() if not key.startswith("visual.")}, str(path))
    with pytest.raises(TextEncoderUnavailable, match="holds no image tower"):
        load_clip_image_encoder(path)
    save_file({key: value for key, value in state.items() if key != "visual.proj"}, str(path))
    with pytest.raises(TextEncoderUnavailable, match="lacks 'proj'"):
        load_clip_image_encoder(path)
    with pytest.raises(TextEncoderUnavailable, match="is no file"):
        load_clip_image_encoder(tmp_path / "none.pt")
