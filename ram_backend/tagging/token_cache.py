"""On-disk cache of image tokens: an image that was seen before is neither decoded nor encoded."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ram_backend.disk_cache import DiskCache
from ram_backend.tagging.tagger import TokenDtype, rounded

TOKEN_DTYPE: TokenDtype = "float16"
"""Precision of the cached tokens: taggers that use the cache are made with it."""

_FORMAT = 2
_HEADER = struct.Struct("<QIIII")  # perceptual hash, width, height, number of tokens, width of a token


class CachedImage(NamedTuple):
    """The entry of one image.

    Attributes:
        tokens: (T, D) float32, rounded to `TOKEN_DTYPE`.
        phash: 64-bit perceptual hash, in [0, 2**64).
        size: (width, height) in pixels, upright.
    """

    tokens: NDArray[np.float32]
    phash: int
    size: tuple[int, int]


def token_key(content: str, preprocessing_id: str, encoder_id: str) -> str:
    """Key of an image's tokens, 64 hex digits; `content` is the sha256 of the image file's bytes, in hex."""
    identity = json.dumps([content, preprocessing_id, encoder_id, TOKEN_DTYPE, _FORMAT])
    return hashlib.sha256(identity.encode()).hexdigest()


class TokenCache:
    """Image tokens by key; see `DiskCache`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._files = DiskCache(folder, max_bytes)

    def get(self, key: str) -> CachedImage | None:
        """The entry of a key, with the tokens that `put` returned; None where it is missing or damaged."""
        content = self._files.get(f"{key}.tokens")
        return None if content is None else _unpacked(content)

    def put(self, key: str, image: CachedImage) -> NDArray[np.float32]:
        """Stores an image's entry, its tokens rounded, unless there is one already.

        Returns:
            (T, D) float32: what `get` returns from now on, in every process. Score these.
        """
        tokens = rounded(image.tokens, TOKEN_DTYPE)
        header = _HEADER.pack(image.phash, *image.size, *tokens.shape)
        return _unpacked(self._files.put(f"{key}.tokens", header + tokens.astype("<f2").tobytes())).tokens


def _unpacked(content: bytes) -> CachedImage:
    phash, width, height, tokens, dim = _HEADER.unpack_from(content)
    numbers = np.frombuffer(content, dtype="<f2", offset=_HEADER.size).reshape(tokens, dim)
    return CachedImage(numbers.astype(np.float32), phash, (width, height))
