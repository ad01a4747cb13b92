"""Captions by a bundle's captioner, else by a template over tags."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.models.bundle import Bundle

if TYPE_CHECKING:
    from ram_backend.captions.writer import CaptionWriter


class BundleCaptions:
    """Writes captions; the captioner is loaded when it is first needed.

    Attributes:
        source: "model", or "template": tags with commas between them, because
            the model (the starter, RAM++) has no captioner.

    Raises:
        InputError: the model has a captioner, and the bundle lacks its weights.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", beams: int = 3, longest: int = 30) -> None:
        """Reads no weights.

        Args:
            bundle: whose images.
            device: of the captioner.
            beams: width of the beam search; 1: greedy.
            longest: word pieces, four of the prompt included.
        """
        self.source: Literal["model", "template"] = "model" if bundle.kind in ("ram", "tag2text") else "template"
        if self.source == "model" and bundle.lacks_captioner:
            raise InputError(f"Bundle {bundle.name!r} can't write captions: {bundle.lacks_captioner}.")
        self._bundle = bundle
        self._device = device
        self._beams = beams
        self._longest = longest

    def write(self, tokens: NDArray[np.float32], tags: Sequence[Sequence[str]]) -> list[str]:
        """Captions of B images, from tokens (B, T, D) and the tags of each."""
        if self.source == "template":
            return [", ".join(row) for row in tags]
        from ram_backend.captions.search import Search

        return self._writer.write(tokens, tags, Search(self._beams, self._longest)) if tags else []

    @cached_property
    def _writer(self) -> CaptionWriter:
        from ram_backend.captions.writer import CaptionWriter
        from ram_backend.models.captioner import load_captioner
        from ram_backend.vocabulary.minilm import bert_tokenizer

        return CaptionWriter(load_captioner(self._bundle, self._device), bert_tokenizer())
