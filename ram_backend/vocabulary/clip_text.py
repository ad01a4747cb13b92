"""Text encoder of RAM and RAM++: CLIP's ViT-B/16 text tower, averaged over prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ram_backend.vocabulary.clip_weights import MODEL, chosen_device, digest_of, load_tower
from ram_backend.vocabulary.prompts import prompts, recipe_id, unit_rows

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

_TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
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
        self.id = f"clip-vit-b-16-{digest_of(tower.state_dict())[:16]}-prompts-{recipe_id()}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds tags: (len(texts), dim) float32, rows of length 1."""
        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for place, text in enumerate(texts):
            rows[place] = self.embed_sentences(prompts(text)).mean(axis=0)
        return unit_rows(rows)

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Embeds sentences as they are: (len(sentences), dim) float32, rows of length 1; cut at 77 tokens."""
        rows = np.empty((len(sentences), self.dim), dtype=np.float32)
        for start in range(0, len(sentences), _BATCH):
            tokens = self._tokenizer(list(sentences[start : start + _BATCH]))
            rows[start : start + len(tokens)] = self._forward(tokens).float().cpu().numpy()
        return unit_rows(rows)

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
        weights: a state dict (.safetensors or .pt), or a folder with one; None: from the hub, or what was fetched from
            it before.
        device: "cpu", "cuda" or "auto".

    Raises:
        TextEncoderUnavailable: the weights are not at hand or don't fit; names the file and the remedy.
    """
    import open_clip

    tower = build_text_tower(open_clip.get_model_config(MODEL))
    load_tower(tower, weights, _text_key, "text")
    return ClipTextEncoder(tower, open_clip.get_tokenizer(MODEL), device=chosen_device(device))


def _text_key(key: str) -> str | None:
    """Key in the text tower, or None: the prefix of open_clip's two-tower class goes."""
    name = key.removeprefix("text.")
    return name if name.startswith(_TEXT_PARTS) else None
