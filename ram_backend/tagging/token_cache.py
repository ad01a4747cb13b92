"""On-disk cache of image tokens, shared by processes, with eviction of the least recently used files.

A file per image holds its tokens, perceptual hash and size, so that an image that was seen before is neither decoded
nor encoded. A file is written once and never changed: the first tokens stored under a key are those that every process
gets, so that asking twice gives the same scores. A damaged file counts as missing. Losing the cache only costs time, so
disk errors are logged and not raised.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ram_backend.tagging.tagger import TokenDtype, rounded

TOKEN_DTYPE: TokenDtype = "float16"
"""Precision of the cached tokens: taggers that use the cache are made with it."""

_FORMAT = 2
_MAGIC = b"RAMTOK2\n"
_DIGEST = 32
_HEADER = struct.Struct("<QIIII")  # perceptual hash, width, height, number of tokens, width of a token

log = logging.getLogger(__name__)


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
    """Key of an image's tokens.

    Args:
        content: sha256 of the image file's bytes, in hex.
        preprocessing_id: `Preprocessing.id`.
        encoder_id: `Network.encoder_id`: weights, engine and precision.

    Returns:
        64 hex digits.
    """
    identity = json.dumps([content, preprocessing_id, encoder_id, TOKEN_DTYPE, _FORMAT])
    return hashlib.sha256(identity.encode()).hexdigest()


class TokenCache:
    """Image tokens by key, for many threads and processes that share a folder.

    Args:
        folder: where the files are; made when the first one is written.
        max_bytes: size of all files together, held to within some percent; those not used for longest go first.
            0: nothing is kept.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._written: int | None = None  # bytes since the last look at the folder's size; None: never looked
        self._warned = False

    def get(self, key: str) -> CachedImage | None:
        """The entry of a key, with the tokens that `put` returned; None where it is missing or damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        entry = _unpacked(data)
        if entry is None:
            log.warning("The cached tokens in %s are damaged: they are computed again.", path)
        with suppress(OSError):  # removed by another process meanwhile, or a folder that may only be read
            path.unlink() if entry is None else os.utime(path)
        return entry

    def put(self, key: str, image: CachedImage) -> NDArray[np.float32]:
        """Stores an image's entry unless there is one already.

        Args:
            key: from `token_key`.
            image: its tokens may be rounded or not.

        Returns:
            (T, D) float32: what `get` returns from now on, in every process. Score these.
        """
        tokens = rounded(image.tokens, TOKEN_DTYPE)
        data = _packed(image._replace(tokens=tokens))
        if len(data) > self._max_bytes:
            return tokens
        try:
            earlier = self.get(key) or self._write(key, data)
            self._make_room(len(data))
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "Image tokens can't be cached in %s (%s): every image is computed anew.", self._folder, error
                )
            return tokens
        return tokens if earlier is None else earlier.tokens

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.tokens"

    def _write(self, key: str, data: bytes) -> CachedImage | None:
        """Creates the file atomically; where another process has done so meanwhile, returns what it stored."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(data)
        part = Path(file.name)
        try:
            path.hardlink_to(part)  # unlike a rename it never replaces what another process has stored
        except FileExistsError:
            return self.get(key)
        except OSError:  # a file system without hard links
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return None

    def _make_room(self, written: int) -> None:
        """Looks at the size of the folder now and then, and removes files where it is too large."""
        with self._lock:
            if self._written is not None and self._written + written < self._max_bytes // 32:
                self._written += written
                return
            self._written = 0
            files = []
            for path in self._folder.glob("??/*"):  # also what a killed process has left half written
                with suppress(OSError):  # removed by another process meanwhile
                    state = path.stat()
                    files.append((state.st_mtime, state.st_size, path))
            excess = sum(size for _, size, _ in files) - self._max_bytes
            if excess <= 0:
                return
            excess += self._max_bytes // 16
            for _, size, path in sorted(files):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= size


def _packed(image: CachedImage) -> bytes:
    content = _HEADER.pack(image.phash, *image.size, *image.tokens.shape) + image.tokens.astype("<f2").tobytes()
    return _MAGIC + hashlib.sha256(content).digest() + content


def _unpacked(data: bytes) -> CachedImage | None:
    start = len(_MAGIC) + _DIGEST
    content = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != hashlib.sha256(content).digest():
        return None
    phash, width, height, tokens, dim = _HEADER.unpack_from(content)
    numbers = np.frombuffer(content, dtype="<f2", offset=_HEADER.size).reshape(tokens, dim)
    return CachedImage(numbers.astype(np.float32), phash, (width, height))
