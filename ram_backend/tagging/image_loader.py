"""From an image's bytes to its tokens: sha256 and cache look-up, else decode and encode.

Serving, training and the commands load images here, so that the same bytes give
the same tokens everywhere. A cached file holds an image's tokens, perceptual
hash and size, so that the image is neither decoded nor encoded again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.disk_cache import DiskCache
from ram_backend.errors import ImageError, ImageUnreadable
from ram_backend.images.decode import decode, header_of, perceptual_hash, read_file
from ram_backend.models.network import Network
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import TOKEN_DTYPE, rounded

FloatArray = NDArray[np.float32]

LARGE_PIXELS = 24_000_000
"""From this size on, images (up to a gigabyte) are decoded one at a time."""

LOCKING, LOCKING_PIXELS, LOCKING_WEIGHT = frozenset({"JPEG2000", "AVIF", "WEBP"}), 500_000, 4
"""Formats whose decoders hold Python's global lock; size that holds up requests.

Each of their pixels counts as some, for memory and time.
"""

_FORMAT = 2
_HEADER = struct.Struct("<QIIII")  # perceptual hash, width, height, number of tokens, width of a token


@dataclass(frozen=True)
class LoadedImage:
    """An image that is ready to be scored (`tokens`) or encoded (`pixels`).

    Attributes:
        sha256: of the file's bytes, in hex.
        phash: 64-bit perceptual hash; 0 where the loader has no cache and
            doesn't hash.
        size: (width, height) in pixels, upright.
        tokens: (T, D) float32 where they were cached; None where the image has
            to be encoded.
        pixels: (3, S, S) float32 where it has to be encoded; else None.
    """

    sha256: str
    phash: int
    size: tuple[int, int]
    tokens: FloatArray | None
    pixels: FloatArray | None


class ImageLoader:
    """Loads images for one bundle. Safe for many threads.

    Args:
        preprocessing: the bundle's.
        encoder_id: the network's.
        cache: of image tokens, rounded to `TOKEN_DTYPE`; None: tokens are
            neither kept nor rounded.
        max_pixels: limit for width x height (RAM_MAX_IMAGE_PIXELS).
        max_bytes: limit for the file's size (RAM_MAX_IMAGE_BYTES).
        decoders: images decoded at the same time, at most; a large one counts
            apart.
        hashed: images are hashed perceptually where there is no cache, too.
        run_in_process: calls a function in another process, for images that
            would hold up this one; None: none is there.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        encoder_id: str,
        cache: DiskCache | None,
        *,
        max_pixels: int,
        max_bytes: int,
        decoders: int = 1,
        hashed: bool = False,
        run_in_process: Callable[..., tuple[tuple[int, int], int, FloatArray]] | None = None,
    ) -> None:
        self._preprocessing = preprocessing
        self._encoder_id = encoder_id
        self._cache = cache
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes
        self._decoders = threading.Semaphore(max(1, decoders))
        self._large = threading.Lock()
        self._hashed = hashed or cache is not None
        self._elsewhere = run_in_process

    def cached(self, sha256: str) -> LoadedImage | None:
        """The image whose bytes have this sha256; None: its tokens are not cached."""
        content = None if self._cache is None else self._cache.get(self._name(sha256))
        if content is None:
            return None
        phash, width, height, _, _ = _HEADER.unpack_from(content)
        return LoadedImage(sha256, phash, (width, height), _tokens(content), None)

    def load(self, data: bytes, *, name: str) -> LoadedImage:
        """Finds an image's tokens in the cache, or decodes it; `name`: in errors.

        Raises:
            ImageTooLarge: more bytes or pixels than the limits allow.
            ImageUnreadable: not an image of a known format, damaged, or cut
                off.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        found = self.cached(sha256)
        if found is not None:
            return found
        pixels, kind = header_of(data)
        locking = kind in LOCKING
        large = pixels <= self._max_pixels and pixels * (LOCKING_WEIGHT if locking else 1) >= LARGE_PIXELS
        heavy = large or (locking and pixels >= LOCKING_PIXELS)
        work = prepared if self._elsewhere is None or not heavy else partial(self._elsewhere, prepared)
        limits = {"max_pixels": self._max_pixels, "max_bytes": self._max_bytes}
        with self._large if large else self._decoders:
            size, phash, array = work(data, self._preprocessing, hashed=self._hashed, name=name, **limits)
        return LoadedImage(sha256, phash, size, None, array)

    def store(self, image: LoadedImage, tokens: FloatArray) -> FloatArray:
        """Writes new tokens (T, D) to the cache; returns those that look-ups give."""
        if self._cache is None:
            return tokens
        header = _HEADER.pack(image.phash, *image.size, *tokens.shape)
        content = header + rounded(tokens, TOKEN_DTYPE).astype("<f2").tobytes()
        return _tokens(self._cache.put(self._name(image.sha256), content))

    def encode(self, network: Network, images: Sequence[LoadedImage]) -> list[FloatArray]:
        """Tokens (T, D) of each image, cached, or encoded and stored."""
        new = [image.pixels for image in images if image.pixels is not None]
        encoded = iter(network.encode(np.stack(new)) if new else ())
        return [image.tokens if image.tokens is not None else self.store(image, next(encoded)) for image in images]

    def batches(
        self, paths: Sequence[Path], size: int, *, threads: int
    ) -> Iterator[list[tuple[Path, LoadedImage | ImageError]]]:
        """Loads files in batches; one is decoded ahead, while the network works.

        Args:
            paths: N files.
            size: of a batch.
            threads: that decode.

        Yields:
            Each file with its image, or why it can't be read, in order.
        """

        def load(path: Path) -> LoadedImage | ImageError:
            try:
                return self.load(read_file(path, self._max_bytes, str(path)), name=str(path))
            except ImageError as error:
                return error

        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            batches = [paths[start : start + size] for start in range(0, len(paths), size)]
            ahead = pool.map(load, batches[0] if batches else ())
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                current, ahead = ahead, pool.map(load, following)
                yield list(zip(batch, current, strict=True))

    def _name(self, sha256: str) -> str:
        identity = json.dumps([sha256, self._preprocessing.id, self._encoder_id, TOKEN_DTYPE, _FORMAT])
        return f"{sha256}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tokens"


def open_image_loader(
    settings: Settings, preprocessing: Preprocessing, encoder_id: str, *, cached: bool = True, **options: Any
) -> ImageLoader:
    """A loader with the settings' limits and, if `cached`, cache; see `ImageLoader`."""
    cache = DiskCache(settings.cache_dir / "tokens", settings.token_cache_bytes) if cached else None
    options |= {"max_pixels": settings.max_image_pixels, "max_bytes": settings.max_image_bytes}
    return ImageLoader(preprocessing, encoder_id, cache, **options)


def prepared(
    data: bytes, preprocessing: Preprocessing, *, hashed: bool, name: str, max_pixels: int, max_bytes: int
) -> tuple[tuple[int, int], int, FloatArray]:
    """Decodes an image: (width, height), perceptual hash or 0, the encoder's input.

    Raises:
        ImageTooLarge, ImageUnreadable: as `decode`.
    """
    exif, alpha = preprocessing.exif_orientation, preprocessing.alpha
    limits = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    try:
        image, size = decode(data, exif_orientation=exif, alpha=alpha, name=name, **limits)
        pixels, phash = preprocessing(image), perceptual_hash(image) if hashed else 0
    except MemoryError:
        raise ImageUnreadable(f"{name}: not enough memory to decode it. Shrink the image.") from None
    if size[0] * size[1] >= LARGE_PIXELS:
        del image
        release_memory()
    return size, phash, pixels


def _tokens(content: bytes) -> FloatArray:
    *_, tokens, width = _HEADER.unpack_from(content)
    numbers = np.frombuffer(content, dtype="<f2", offset=_HEADER.size).reshape(tokens, width)
    return numbers.astype(np.float32)


def release_memory() -> None:
    """Gives freed memory back to the system, which glibc would keep."""
    _call_glibc("malloc_trim", 0)


def unmap_freed_memory() -> None:
    """From now on, freed blocks of a megabyte and more go back to the system."""
    _call_glibc("mallopt", -3, 1_000_000)  # M_MMAP_THRESHOLD, which otherwise grows to 32 MB


def _call_glibc(name: str, *numbers: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)  # other C libraries have none
    if function is not None:
        function(*numbers)
