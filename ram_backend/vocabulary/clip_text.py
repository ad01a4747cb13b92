"""CLIP's ViT-B/16 text tower with OpenAI's weights, as RAM and RAM++ embed their tags.

OpenAI's networks use the quick GELU, x * sigmoid(1.702 x): open_clip's "ViT-B-16-quickgelu". Its plain "ViT-B-16"
takes the same weights without complaint and gives other numbers.
"""

from __future__ import annotations

import hashlib
import socket
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.vocabulary.prompts import prompts, recipe_id

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

MODEL = "ViT-B-16-quickgelu"
PRETRAINED = "openai"
ARCHIVE_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
"""OpenAI's TorchScript archive `ViT-B-16.pt`, as its address names it: the only archive that is opened."""

_TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
_REMEDY = (
    "put a state dict of open_clip's ViT-B-16 with OpenAI's weights (.safetensors or .pt) on this machine"
    " and name it in RAM_CLIP_WEIGHTS"
)
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CONNECT_S = 5.0
_BATCH = 256

Tokenizer = Callable[[Sequence[str]], Tensor]


class ClipTextEncoder:
    """Embeds tags with CLIP's text tower: each prompt to length 1, their mean, to length 1 again.

    Attributes:
        id: weights (digest of the tower's tensors) and recipe.
        dim: 512 with the released weights.
    """

    def __init__(self, tower: TextTransformer, tokenizer: Tokenizer, *, device: str = "cpu") -> None:
        """Takes a text tower with its weights.

        Args:
            tower: open_clip's module; nothing of the image tower is kept.
            tokenizer: texts -> (n, context) int64, end-of-text being the largest id of a row; cuts what is too long.
            device: where it runs.
        """
        self._tower = tower.eval().float().to(device)
        self._tokenizer = tokenizer
        self._device = device
        self.dim = int(tower.output_dim or tower.width)
        self.id = f"clip-vit-b-16-{_digest(tower.state_dict())[:16]}-prompts-{recipe_id()}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds tags: (len(texts), dim) float32, rows of length 1."""
        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for place, text in enumerate(texts):
            rows[place] = self.embed_sentences(prompts(text)).mean(axis=0)
        return _unit(rows)

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Embeds sentences as they are: (len(sentences), dim) float32, rows of length 1; cut at 77 tokens."""
        rows = np.empty((len(sentences), self.dim), dtype=np.float32)
        for start in range(0, len(sentences), _BATCH):
            tokens = self._tokenizer(list(sentences[start : start + _BATCH]))
            rows[start : start + len(tokens)] = self._forward(tokens).float().cpu().numpy()
        return _unit(rows)

    @torch.inference_mode()
    def _forward(self, tokens: Tensor) -> Tensor:
        """(n, context) token ids -> (n, dim). What comes after the last end-of-text can't be seen by it: cut off."""
        tower = self._tower
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        tokens, ends = tokens[:, :length].to(self._device), ends.to(self._device)
        mask = tower.attn_mask[:length, :length] if tower.attn_mask is not None else None
        states = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        states = tower.ln_final(tower.transformer(states, attn_mask=mask))
        pooled: Tensor = states[torch.arange(len(tokens), device=self._device), ends]
        return pooled @ tower.text_projection if tower.text_projection is not None else pooled


def build_text_tower(config: Mapping[str, Any]) -> TextTransformer:
    """A text tower without weights, from an open_clip model configuration (`embed_dim`, `quick_gelu`, `text_cfg`)."""
    from open_clip.transformer import QuickGELU, TextTransformer

    text = config["text_cfg"]
    return TextTransformer(
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        width=text["width"],
        heads=text["heads"],
        layers=text["layers"],
        output_dim=config["embed_dim"],
        act_layer=QuickGELU if config.get("quick_gelu") else nn.GELU,
    )


def load_clip_text_encoder(weights: Path | None, *, device: str = "auto") -> ClipTextEncoder:
    """CLIP ViT-B/16's text encoder with OpenAI's weights.

    Args:
        weights: a state dict (.safetensors or .pt) or OpenAI's TorchScript archive; None: from the hub, or what was
            fetched from it before.
        device: "cpu", "cuda" or "auto".

    Raises:
        TextEncoderUnavailable: the weights are not at hand or don't fit; names the file and the remedy.
    """
    import open_clip

    config = open_clip.get_model_config(MODEL)
    state = read_text_weights(weights if weights is not None else _from_hub())
    tower = build_text_tower(config)
    where = str(weights) if weights is not None else "the hub's file"
    _load(tower, state, where)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return ClipTextEncoder(tower, open_clip.get_tokenizer(MODEL), device=chosen)


def read_text_weights(path: Path) -> dict[str, Tensor]:
    """The text tower's tensors of a weight file, float32; the image tower is not read where the format allows it.

    Raises:
        TextEncoderUnavailable: no such file, not readable without running code, or no text tower in it.
    """
    if not path.is_file():
        raise TextEncoderUnavailable(f"CLIP's weights: {path} is no file; {_REMEDY}.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path)
        elif _is_torchscript(path):
            state = _read_archive(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except TextEncoderUnavailable:
        raise
    except Exception as error:  # many libraries' own errors: one line is what a person needs
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextEncoderUnavailable(f"CLIP's weights: {path} can't be read ({reason[:200]}); {_REMEDY}.") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = {_text_key(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {key: value.float() for key, value in found.items() if key is not None and isinstance(value, Tensor)}
    if not tensors:
        raise TextEncoderUnavailable(f"CLIP's weights: {path} holds no text tower; {_REMEDY}.")
    return tensors


def _text_key(key: object) -> str | None:
    """Key in the text tower, or None: prefixes of data-parallel training and of open_clip's two-tower class go."""
    if not isinstance(key, str):
        return None
    name = key.removeprefix("module.").removeprefix("text.")
    return name if name.startswith(_TEXT_PARTS) else None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if _text_key(key) is not None}  # noqa: SIM118


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_archive(path: Path) -> dict[str, Tensor]:
    """OpenAI's archive carries code, so only the one with the published checksum is opened."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ARCHIVE_SHA256:
        raise TextEncoderUnavailable(
            f"CLIP's weights: {path} is a TorchScript archive, but not OpenAI's ViT-B-16.pt (sha256 {digest[:12]}..."
            f" instead of {ARCHIVE_SHA256[:12]}...); {_REMEDY}."
        )
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]


def _load(tower: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads strictly: a silent partial load is the worst failure."""
    own = tower.state_dict()
    for key, value in own.items():
        if key not in state:
            raise TextEncoderUnavailable(f"CLIP's weights: {where} lacks {key!r}; {_REMEDY}.")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise TextEncoderUnavailable(f"CLIP's weights: {where} has {key!r} of shape {shapes}; {_REMEDY}.")
        if not torch.isfinite(state[key]).all():
            raise TextEncoderUnavailable(
                f"CLIP's weights: {where} has values in {key!r} that are no numbers; {_REMEDY}."
            )
    tower.load_state_dict({key: state[key] for key in own}, strict=True)


def _from_hub() -> Path:
    """Path of the weights: as fetched before, else fetched now by open_clip.

    A machine that can't reach the hub learns it within seconds: the hub's library alone would try for a minute.
    """
    from open_clip import download_pretrained, get_pretrained_cfg

    config = get_pretrained_cfg(MODEL, PRETRAINED)
    cached = _cached(config["hf_hub"].rstrip("/"))
    if cached is not None:
        return cached
    try:
        _reach_hub()
        return Path(download_pretrained(config))
    except Exception as error:  # huggingface_hub, its HTTP library and the file system each have their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextEncoderUnavailable(
            f"CLIP's weights could not be fetched ({reason[:200]}): connect this machine to the internet, or {_REMEDY}."
        ) from None


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _HUB_FILES:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    return None


def _reach_hub() -> None:
    """Connects to the hub once.

    Raises:
        OSError: it can't be reached. Not raised where a proxy stands between: then only the download can tell.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise OSError(f"{address.netloc} can't be reached: {error.strerror or error}") from None


def _digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values: the same for every file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().float().cpu().contiguous().numpy()
        digest.update(f"{key}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return np.divide(rows, lengths, dtype=np.float32)
