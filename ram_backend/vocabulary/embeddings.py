"""Text encoders: protocol, cache on disk, opening, embedding of descriptions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Len, MinLen
from numpy.typing import NDArray
from pydantic import StringConstraints, TypeAdapter, ValidationError

from ram_backend.disk_cache import DiskCache
from ram_backend.errors import TextEncoderUnavailable, VocabularyError
from ram_backend.settings import Settings
from ram_backend.vocabulary.tags import first_error, read_text

Rows = NDArray[np.float32]
_Text = Annotated[str, StringConstraints(pattern=r"\S")]
_Descriptions = Annotated[list[Annotated[dict[_Text, Annotated[list[_Text], MinLen(1)]], Len(1, 1)]], MinLen(1)]
SPECS = ("minilm", "clip-vit-b-16")


class TextEncoder(Protocol):
    """Turns texts into embeddings.

    Attributes:
        id: identity of weights and recipe; equal ids give equal embeddings.
        dim: width of a row.
    """

    id: str
    dim: int

    def embed(self, texts: Sequence[str]) -> Rows:
        """Embeds tags: (N, dim) float32, rows of length 1; means over prompts."""

    def embed_sentences(self, sentences: Sequence[str]) -> Rows:
        """Embeds sentences as they are: (N, dim) float32, rows of length 1."""


class CachedTextEncoder:
    """Embeds each text once: rows are on disk by encoder and text."""

    def __init__(self, encoder: TextEncoder, folder: Path, max_bytes: int) -> None:
        """Takes an encoder, and folder and size of a `DiskCache` that others may share."""
        self._encoder = encoder
        self._files = DiskCache(folder, max_bytes)
        self.id = encoder.id
        self.dim = encoder.dim

    def embed(self, texts: Sequence[str]) -> Rows:
        """See `TextEncoder`."""
        return self._cached("tag", texts, self._encoder.embed)

    def embed_sentences(self, sentences: Sequence[str]) -> Rows:
        """See `TextEncoder`."""
        return self._cached("sentence", sentences, self._encoder.embed_sentences)

    def _cached(self, kind: str, texts: Sequence[str], embed: Callable[[Sequence[str]], Rows]) -> Rows:
        names = {text: self._name(kind, text) for text in texts}
        found = {text: self._files.get(name) for text, name in names.items()}
        missing = [text for text, content in found.items() if content is None]
        if missing:
            for text, row in zip(missing, np.asarray(embed(missing), dtype="<f4"), strict=True):
                found[text] = self._files.put(names[text], row.tobytes())
        content = b"".join(found[text] or b"" for text in texts)
        return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(len(texts), self.dim)

    def _name(self, kind: str, text: str) -> str:
        identity = "\0".join((self.id, kind, text))
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def load_descriptions(path: Path) -> dict[str, list[str]]:
    """Reads RAM++'s tag descriptions: a JSON list of `{tag: [sentence, ...]}`.

    Raises:
        VocabularyError: the file can't be read or is no such list.
    """
    try:
        entries = TypeAdapter(_Descriptions).validate_json(read_text(path), strict=True)
    except ValidationError as error:
        raise VocabularyError(
            f"{path}: not a list of objects {{tag: [sentence, ...]}} ({first_error(error)}). Repair it."
        ) from None
    descriptions: dict[str, list[str]] = {}
    for number, entry in enumerate(entries, start=1):
        for tag in entry.keys() & descriptions.keys():
            raise VocabularyError(f"{path}, entry {number}: {tag!r} has come before. Keep one entry per tag.")
        descriptions |= entry
    return descriptions


def embed_descriptions(encoder: TextEncoder, descriptions: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """Embeds every sentence on its own, since RAM++ weighs them by the image.

    Returns:
        Tag -> (k, dim) float32, rows of length 1, in the order of sentences.
    """
    rows = encoder.embed_sentences(list(chain.from_iterable(descriptions.values())))
    ends = np.cumsum([0, *map(len, descriptions.values())])
    return {tag: rows[start:end] for tag, start, end in zip(descriptions, ends[:-1], ends[1:], strict=True)}


def open_text_encoder(spec: str, settings: Settings) -> TextEncoder:
    """Opens a bundle's text encoder (one of `SPECS`), behind the cache on disk.

    Raises:
        TextEncoderUnavailable: it isn't known, or its weights are not at hand.
    """
    encoder: TextEncoder
    if spec == "minilm":
        from ram_backend.vocabulary.minilm import MiniLMTextEncoder

        encoder = MiniLMTextEncoder(settings.cache_dir / "text-encoders", threads=settings.cpu_threads())
    elif spec == "clip-vit-b-16":
        from ram_backend.vocabulary.clip_text import load_clip_text_encoder

        encoder = load_clip_text_encoder(settings.clip_weights, device=settings.device)
    else:
        raise TextEncoderUnavailable(f"Unknown text encoder {spec!r}. Known are: {', '.join(SPECS)}.")
    return CachedTextEncoder(encoder, settings.cache_dir / "text", settings.text_cache_bytes)
