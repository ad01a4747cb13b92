"""Tag-guided captions (Tag2Text, arXiv 2303.05657): one sentence per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from ram_backend.captions.search import Search, generate
from ram_backend.models.captioner import PAD, Captioner

PROMPT = "a picture of "
LONGEST = 40
"""Word pieces of all tags of an image, or of a caption to learn from."""

SEP = 102
_BEGIN, _TAGS = 30522, 30523
"""Ids that the authors added to BERT's: of the decoder, of the tag encoder."""
_IGNORED = -100


class CaptionWriter:
    """Writes one sentence for each image.

    Args:
        captioner: of the bundle whose encoder made the image tokens.
        tokenizer: of bert-base-uncased.
    """

    def __init__(self, captioner: Captioner, tokenizer: Tokenizer) -> None:
        self._captioner = captioner
        self._tokenizer = tokenizer

    def write(self, tokens: NDArray[np.float32], tags: Sequence[Sequence[str]], search: Search) -> list[str]:
        """Captions of B images.

        Args:
            tokens: (B, T, D) float32, of the bundle's image encoder.
            tags: of each image, best first or in any order: what the caption is
                about.
            search: how words are chosen.
        """
        ids = self.ids(torch.from_numpy(tokens), tags, search)
        texts = self._tokenizer.decode_batch([[each for each in row if each < _BEGIN] for row in ids])
        return [text[len(PROMPT) :].strip() for text in texts]

    @torch.inference_mode()
    def ids(self, tokens: Tensor, tags: Sequence[Sequence[str]], search: Search, *, end: int = SEP) -> list[list[int]]:
        """Ids of the captions, prompt and end included."""
        states = self._states(tokens, tags)
        prompt = self.prompt(len(tags)).to(states.device)
        return generate(self._captioner.text_decoder, states, prompt, search, end=end)

    def loss(self, tokens: Tensor, tags: Sequence[Sequence[str]], captions: Sequence[str]) -> tuple[Tensor, int]:
        """Tag2Text's caption loss: mean cross-entropy of word pieces, label smoothing 0.1.

        The first four, which are the prompt's, and those after the 40th don't
        count.

        Args:
            tokens: (B, T, D) image tokens.
            tags: of each image, those that its caption speaks of.
            captions: B texts that begin with `PROMPT`.

        Returns:
            The loss, and how many word pieces it is the mean of.
        """
        states = self._states(tokens, tags)
        ids = self._padded([each.ids for each in self._tokenizer.encode_batch(captions)])[0].to(states.device)
        ids[:, 0] = _BEGIN
        logits = self._captioner.text_decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits
        wanted = ids.masked_fill(ids == PAD, _IGNORED)
        wanted[:, : self.prompt(1).shape[1]] = _IGNORED
        wanted = wanted[:, 1:].flatten()
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), wanted, ignore_index=_IGNORED, label_smoothing=0.1)
        return loss, int((wanted != _IGNORED).sum())

    def prompt(self, images: int) -> Tensor:
        """Ids (B, 4) that each caption begins with."""
        words = self._tokenizer.encode(PROMPT, add_special_tokens=False).ids
        return torch.tensor([[_BEGIN, *words]] * images)

    def tag_ids(self, tags: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, `LONGEST`) of the tags of B images, each as one text."""
        ids, mask = self._padded([each.ids for each in self._tokenizer.encode_batch([" | ".join(row) for row in tags])])
        ids[:, 0] = _TAGS
        return ids, mask

    def _states(self, tokens: Tensor, tags: Sequence[Sequence[str]]) -> Tensor:
        device = self._captioner.text_decoder.device
        ids, mask = self.tag_ids(tags)
        return self._captioner.encode_tags(ids.to(device), mask.to(device), tokens.to(device))

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, `LONGEST`); longer rows are cut before the last id."""
        ids = torch.full((len(rows), LONGEST), PAD)
        for at, row in enumerate(rows):
            cut = [*row[: LONGEST - 1], SEP] if len(row) > LONGEST else row
            ids[at, : len(cut)] = torch.tensor(cut)
        return ids, ids != PAD
