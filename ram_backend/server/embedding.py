"""The server's one text encoder, shared by all snapshots that are being built."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import NotAvailable, TextEncoderUnavailable
from ram_backend.server.model import Model, network_threads
from ram_backend.settings import Settings
from ram_backend.vocabulary.embeddings import TextEncoder, open_text_encoder

PIECE = 64
"""Texts embedded at once: a project with a few new tags needn't wait for one with thousands."""


class SharedTextEncoder:
    """Opens the bundle's text encoder when it is first needed, and embeds in small pieces that take turns.

    Implements `TextEncoder`; everything here may wait, so it is asked from building threads only.

    Args:
        model: whose bundle names the encoder.
        settings: cache, weights, device, threads.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings.model_copy(update={"threads": network_threads(settings)})
        self._opening = threading.Lock()
        self._turn = threading.Lock()
        self._encoder: TextEncoder | None = None
        self._closed = False

    @property
    def id(self) -> str:
        """Identity of the encoder."""
        return self._opened().id

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._opened().dim

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds tags: (len(texts), dim) float32.

        Raises:
            TextEncoderUnavailable: the encoder can't be opened.
            NotAvailable: the server is going down.
        """
        encoder = self._opened()
        rows = np.empty((len(texts), encoder.dim), dtype=np.float32)
        for start in range(0, len(texts), PIECE):
            with self._turn:
                if self._closed:
                    raise NotAvailable("The server is going down: ask again in a moment.")
                rows[start : start + PIECE] = encoder.embed(texts[start : start + PIECE])
        return rows

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Embeds sentences as they are: (len(sentences), dim) float32."""
        return self._opened().embed_sentences(sentences)

    def close(self) -> None:
        """Ends what is being embedded, after its piece."""
        self._closed = True

    def _opened(self) -> TextEncoder:
        with self._opening:
            if self._encoder is None:
                name = self._model.identity.result().bundle.text_encoder
                if name is None:
                    raise TextEncoderUnavailable("The bundle has no text encoder: it can't take new tags.")
                self._encoder = open_text_encoder(name, self._settings)
            return self._encoder
