"""MiniLM through onnxruntime: the same numbers as in transformers, and meaning."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from ram_backend.vocabulary import minilm
from ram_backend.vocabulary.minilm import PROMPTS, MiniLMTextEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text-encoders")
    MiniLMTextEncoder(folder, threads=1).embed(["warm up"])
    return folder


def test_it_gives_what_transformers_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = str(minilm._package_folder())
    model, tokenizer = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    expected = np.zeros(384, dtype=np.float32)
    for prompt in PROMPTS:
        batch = tokenizer([prompt.format("hot-air balloon")], return_tensors="pt")
        with torch.no_grad():
            state = model(**batch).last_hidden_state[0].mean(0)
        expected += (state / state.norm()).numpy()
    expected /= np.linalg.norm(expected)
    encoder = MiniLMTextEncoder(folder)
    row = encoder.embed(["hot-air balloon"])[0]
    np.testing.assert_allclose(row, expected, atol=2e-5)
    assert (row.shape, row.dtype) == ((384,), np.float32)
    assert encoder.id == MiniLMTextEncoder(folder / "elsewhere").id
    monkeypatch.setattr(minilm, "PROMPTS", ("{}",))
    assert MiniLMTextEncoder(folder).id != encoder.id


def test_neighbours_in_a_batch_don_t_matter(folder: Path) -> None:
    encoder = MiniLMTextEncoder(folder, threads=1)
    alone = encoder.embed(["cat"])
    among = encoder.embed(["a very long name of a thing that nobody has ever seen", "cat", "x"])
    np.testing.assert_allclose(among[1], alone[0], atol=1e-5)
    assert encoder.embed([]).shape == (0, 384)


def test_no_half_export_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("out of disk")

    monkeypatch.setattr(minilm, "_export", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of disk"):
            MiniLMTextEncoder(tmp_path).embed(["dog"])
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_the_second_exporter_takes_the_first_s(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = MiniLMTextEncoder(tmp_path)
    (made,) = [path for path in folder.iterdir() if not path.name.startswith(".")]
    monkeypatch.setattr(minilm, "_export", None)
    with ThreadPoolExecutor(1) as threads:
        with FileLock(tmp_path / f".{made.name}.lock"):
            second = threads.submit(encoder.embed, ["dog"])
            shutil.copytree(made, tmp_path / made.name)
        assert second.result().shape == (1, 384)
