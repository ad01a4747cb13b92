"""Text encoder of RAM and RAM++: OpenAI's CLIP ViT-B/16, averaged over prompts.

OpenAI's networks use the quick GELU, x * sigmoid(1.702 x). open_clip's plain
"ViT-B-16" takes the same weights without complaint and gives other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import requests
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.vocabulary.prompts import prompts, recipe_id, unit_rows

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

MODEL = "ViT-B-16-quickgelu"

_BATCH = 256
_CONNECT_S = 5.0
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_REMEDY = (
    "put a state dict of open_clip's ViT-B-16 with OpenAI's weights (.safetensors or .pt) on this machine"
    " and name it, or its folder, in RAM_CLIP_WEIGHTS"
)

Tokenizer = Callable[[Sequence[str]], Tensor]


class ClipTextEncoder:
    """Embeds tags: each prompt to length 1, their mean, to length 1 again.

    Attributes:
        id: weights (digest of the tower's tensors) and recipe.
        dim: 512 with the released weights.
    """

    def __init__(self, tower: TextTransformer, tokenizer: Tokenizer, *, device: str = "cpu") -> None:
        """Takes open_clip's tower and tokenizer (largest id: end of text)."""
        self._device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._tower = tower.eval().float().to(self._device)
        self._tokenizer = tokenizer
        self.dim = int(tower.output_dim)
        self.id = f"clip-vit-b-16-{_digest_of(tower.state_dict())[:16]}-prompts-{recipe_id()}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds tags: (len(texts), dim) float32, rows of length 1."""
        rows = [self.embed_sentences(prompts(text)).mean(axis=0) for text in texts]
        return unit_rows(np.array(rows, dtype=np.float32).reshape(len(texts), self.dim))

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Embeds sentences, cut at 77 tokens: (N, dim) float32, rows of length 1."""
        rows = np.empty((len(sentences), self.dim), dtype=np.float32)
        for start in range(0, len(sentences), _BATCH):
            tokens = self._tokenizer(list(sentences[start : start + _BATCH]))
            rows[start : start + len(tokens)] = self._forward(tokens).float().cpu().numpy()
        return unit_rows(rows)

    @torch.inference_mode()
    def _forward(self, tokens: Tensor) -> Tensor:
        """(n, context) token ids -> (n, dim), cut after the last end-of-text."""
        tower = self._tower
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        tokens = tokens[:, :length].to(self._device)
        states = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        mask = tower.attn_mask[:length, :length]
        states = tower.ln_final(tower.transformer(states, attn_mask=mask))
        rows = torch.arange(len(tokens), device=self._device)
        return states[rows, ends.to(self._device)] @ tower.text_projection


def build_text_tower(config: Mapping[str, Any]) -> TextTransformer:
    """A text tower without weights, from an open_clip model configuration."""
    from open_clip.transformer import QuickGELU, TextTransformer

    return TextTransformer(
        **config["text_cfg"],
        output_dim=config["embed_dim"],
        act_layer=QuickGELU if config.get("quick_gelu") else nn.GELU,
    )


def load_clip_text_encoder(weights: Path | None, *, device: str = "auto") -> ClipTextEncoder:
    """CLIP ViT-B/16's text encoder with OpenAI's weights.

    Args:
        weights: a state dict (.safetensors or .pt), or a folder with one under
            the hub's name; None: from the hub or its cache. Pickles are read as
            plain tensors only; TorchScript is refused.
        device: "cpu", "cuda" or "auto".

    Raises:
        TextEncoderUnavailable: the weights are not at hand, or don't fit.
    """
    import open_clip

    tower = build_text_tower(open_clip.get_model_config(MODEL))
    _fill(tower, weights)
    return ClipTextEncoder(tower, open_clip.get_tokenizer(MODEL), device=device)


def load_clip(weights: Path | None) -> nn.Module:
    """Both towers of CLIP ViT-B/16, frozen, on the CPU; errors as above."""
    import open_clip
    from open_clip.model import CLIP

    model: nn.Module = CLIP(**open_clip.get_model_config(MODEL))
    _fill(model, weights)
    return model.eval().requires_grad_(False)


def _fill(module: nn.Module, weights: Path | None) -> None:
    """Loads a module's tensors from local weights, or from the hub or its cache."""
    from open_clip.factory import load_state_dict

    path = _from_hub() if weights is None else _file(weights)
    try:
        state = load_state_dict(str(path), weights_only=True)
        named = {key.removeprefix("text."): value for key, value in state.items()}
        module.load_state_dict({key: named[key] for key in module.state_dict() if key in named}, strict=True)
        if not all(parameter.isfinite().all() for parameter in module.parameters()):
            raise ValueError("a tensor holds NaN or infinity")
    except Exception as error:  # of many libraries
        raise TextEncoderUnavailable(f"CLIP's weights: {path} can't be read ({_line(error)}); {_REMEDY}.") from None


def _digest_of(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values, whatever the file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().float().cpu().contiguous().numpy()
        digest.update(f"{key}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _file(path: Path) -> Path:
    """The weight file that a setting names, itself or by its folder."""
    found = next((path / name for name in _HUB_FILES if (path / name).is_file()), path)
    if not found.is_file():
        raise TextEncoderUnavailable(f"CLIP's weights: {path} is neither a file nor a folder with one; {_REMEDY}.")
    return found


def _from_hub() -> Path:
    """Path of the weights: as fetched before, else fetched now by open_clip."""
    import open_clip
    from huggingface_hub import constants, try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(MODEL, "openai")
    for name in _HUB_FILES:
        cached = try_to_load_from_cache(config["hf_hub"].rstrip("/"), name)
        if isinstance(cached, str):
            return Path(cached)
    try:
        requests.head(constants.ENDPOINT, timeout=_CONNECT_S)  # offline, the hub tries for a minute
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # of the hub, HTTP or the file system
        raise TextEncoderUnavailable(f"CLIP's weights can't be fetched ({_line(error)}): {_REMEDY}.") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
