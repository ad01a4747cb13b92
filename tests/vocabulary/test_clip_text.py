import math
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.settings import load_settings
from ram_backend.vocabulary import clip_text
from ram_backend.vocabulary.clip_text import MODEL, ClipTextEncoder, build_text_tower, load_clip_text_encoder
from ram_backend.vocabulary.embeddings import open_text_encoder
from ram_backend.vocabulary.prompts import prompts

WIDTH, HEADS, LAYERS, DIM = 32, 4, 2, 16
SMALL: dict[str, Any] = {
    "embed_dim": DIM,
    "quick_gelu": True,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS},
}
SENTENCES = ["a photo of a dog.", "This is a very long sentence about an orange sunset over the sea.", "x"]


def tower(config: dict[str, Any] = SMALL, scale: float = 12.0) -> Any:
    """A small text tower with weights large enough for the activation to matter."""
    torch.manual_seed(7)
    made = build_text_tower(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale / math.sqrt(parameter.shape[-1]) / 4)
    return made


def encoder(config: dict[str, Any] = SMALL) -> ClipTextEncoder:
    return ClipTextEncoder(tower(config), open_clip.get_tokenizer(MODEL))


def test_sentences_are_encoded_as_by_the_whole_clip_with_the_quick_gelu() -> None:
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    whole = open_clip.model.CLIP(**SMALL, vision_cfg=vision).eval()
    whole.load_state_dict(tower().state_dict(), strict=False)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(whole.encode_text(open_clip.get_tokenizer(MODEL)(SENTENCES)))
    rows = encoder().embed_sentences(SENTENCES)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    alone = np.concatenate([encoder().embed_sentences([sentence]) for sentence in SENTENCES])  # without the padding
    np.testing.assert_allclose(alone, rows, atol=1e-5)
    assert np.abs(rows - encoder({**SMALL, "quick_gelu": False}).embed_sentences(SENTENCES)).max() > 5e-4


def test_a_tag_is_the_unit_mean_of_unit_prompts() -> None:
    ours = encoder()
    rows = ours.embed(["Traffic_light", "apple"])
    assert rows.shape == (2, DIM)
    assert rows.dtype == np.float32
    sentences = ours.embed_sentences(prompts("apple"))
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=1), 1, atol=1e-5)
    mean = sentences.mean(axis=0)
    np.testing.assert_allclose(rows[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(rows[0], ours.embed(["traffic light"])[0], atol=1e-6)
    assert ours.embed([]).shape == (0, DIM)


def test_the_id_names_weights_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder().id
    assert first == encoder().id
    changed = tower()
    with torch.no_grad():
        changed.ln_final.bias[0] += 1e-3
    assert ClipTextEncoder(changed, open_clip.get_tokenizer(MODEL)).id != first
    monkeypatch.setattr(clip_text, "recipe_id", lambda: "other")
    assert encoder().id != first


@pytest.fixture(autouse=True)
def small_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's configuration, with a small tower instead of the large one."""

    monkeypatch.setattr(open_clip, "get_model_config", {"ViT-B-16-quickgelu": SMALL}.__getitem__)


def saved(path: Path, kind: str = "safetensors", state: dict[str, torch.Tensor] | None = None) -> Path:
    """A file of weights, by default those of `tower()`, beside others that a whole CLIP has."""
    state = state or dict(tower().state_dict())
    whole = state | {"visual.conv1.weight": torch.ones(2, 2), "logit_scale": torch.tensor(4.6)}
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in whole.items()}, path)
    elif kind == "state_dict":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in whole.items()}}, path)
    else:
        prefix = "text." if kind == "prefixed" else ""
        torch.save({(prefix if key in state else "") + key: value for key, value in whole.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "plain", "state_dict", "prefixed"])
def test_local_weights_are_read_from_every_format(kind: str, tmp_path: Path) -> None:
    loaded = load_clip_text_encoder(saved(tmp_path / f"weights.{kind}", kind), device="cpu")
    assert loaded.id == encoder().id
    np.testing.assert_allclose(loaded.embed(["dog"]), encoder().embed(["dog"]), atol=1e-6)
    assert not any("visual" in name for name, _ in loaded._tower.named_parameters())
    half = saved(tmp_path / f"half.{kind}", kind, {key: value.half() for key, value in tower().state_dict().items()})
    rows = load_clip_text_encoder(half, device="cpu").embed(["dog"])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, encoder().embed(["dog"]), atol=2e-2)
    half.write_bytes(half.read_bytes()[:1000])
    with pytest.raises(TextEncoderUnavailable, match="can't be read"):
        load_clip_text_encoder(half, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ln_final.bias", None, r"Missing key.*ln_final\.bias"),
        ("text_projection", torch.zeros(3, 3), "size mismatch for text_projection"),
        ("ln_final.bias", torch.full((WIDTH,), math.nan), "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_named(name: str, value: torch.Tensor | None, said: str, tmp_path: Path) -> None:
    changed = {**tower().state_dict(), name: value}
    path = saved(tmp_path / "weights", "plain", {key: part for key, part in changed.items() if part is not None})
    with pytest.raises(TextEncoderUnavailable, match=said) as raised:
        load_clip_text_encoder(path, device="cpu")
    message = str(raised.value)
    assert str(path) in message
    assert "RAM_CLIP_WEIGHTS" in message
    assert "\n" not in message


class Evil:
    def __reduce__(self) -> tuple[Any, Any]:
        return Path.touch, (Path("ran"),)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"text_projection": Evil()}, "zipped.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("zipped.pt", "plain.pt"):
        with pytest.raises(TextEncoderUnavailable, match=rf"{name} can't be read"):
            load_clip_text_encoder(tmp_path / name, device="cpu")
    assert not Path("ran").exists()


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text_projection = torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.text_projection


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_that_holds_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(Scripted()).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(TextEncoderUnavailable, match=r"ViT-B-16\.pt can't be read.*TorchScript") as raised:
        load_clip_text_encoder(path, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_folder_with_the_hub_s_file_will_do(tmp_path: Path) -> None:
    saved(tmp_path / "open_clip_model.safetensors")
    assert load_clip_text_encoder(tmp_path, device="cpu").id == encoder().id
    with pytest.raises(TextEncoderUnavailable, match=r"absent\.pt is neither a file nor a folder with one"):
        open_text_encoder("clip-vit-b-16", load_settings(clip_weights=tmp_path / "absent.pt"))


def test_a_file_without_both_towers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**SMALL, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(TextEncoderUnavailable, match=r"other\.safetensors can't be read"):
        clip_text.load_clip(tmp_path / "other.safetensors")


def test_without_weights_and_network_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed}")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_: pytest.fail("tried to download"))
    with pytest.raises(TextEncoderUnavailable, match=f"port={closed}.*RAM_CLIP_WEIGHTS") as raised:
        open_text_encoder("clip-vit-b-16", load_settings())
    assert "\n" not in str(raised.value)


def test_what_was_fetched_before_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    saved(repository / "snapshots" / "abc" / "open_clip_model.safetensors")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_: pytest.fail("tried to download"))
    assert load_clip_text_encoder(None, device="cpu").id == encoder().id


def test_open_text_encoder_takes_the_weights_of_the_settings(tmp_path: Path) -> None:
    settings = load_settings(clip_weights=saved(tmp_path / "weights.safetensors"), device="cpu")
    opened = open_text_encoder("clip-vit-b-16", settings)
    assert (opened.id, opened.dim) == (encoder().id, DIM)
    texts = ["dog", "my product name"]
    np.testing.assert_allclose(opened.embed(texts), encoder().embed(texts), atol=1e-6)
    assert len([path for path in (settings.cache_dir / "text").rglob("*") if path.is_file()]) == 2
