"""One image of a task: fetched, looked up in the token cache, and only where it is new decoded for the encoder."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ram_backend.errors import ImageUnreadable
from ram_backend.images.decode import FORMATS, decode
from ram_backend.images.hashing import perceptual_hash
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import ModelIdentity
from ram_backend.settings import Settings
from ram_backend.tagging.token_cache import CachedImage, TokenCache, token_key

FloatArray = NDArray[np.float32]

LARGE_PIXELS = 24_000_000
"""Images from this size on (up to some 300 MB each while they are decoded) are decoded one at a time."""

KEPT_HASHES = 50_000
"""Perceptual hashes in memory: images whose tokens are cached aren't decoded again."""

_TURNED = frozenset({5, 6, 7, 8})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An image on its way: `tokens` where they were cached, else `pixels` for the encoder.

    Attributes:
        key: of its tokens in the cache.
        content: sha256 of its bytes, in hex.
        phash: perceptual hash; None where it wasn't decoded now, nor lately.
        size: (width, height) as people see it.
        tokens: (T, D) float32.
        pixels: (3, S, S) float32.
    """

    key: str
    content: str
    phash: int | None
    size: tuple[int, int]
    tokens: FloatArray | None
    pixels: FloatArray | None


class PictureDesk:
    """Prepares images, from many threads at a time; decoding takes turns so that memory and cores suffice.

    Args:
        settings: limits, and how many cores there are.
        cache: of tokens.
        metrics: told of hits and misses.
    """

    def __init__(self, settings: Settings, cache: TokenCache, metrics: ServerMetrics) -> None:
        self._settings = settings
        self._cache = cache
        self._metrics = metrics
        self._hashes: OrderedDict[str, int] = OrderedDict()
        self._hashing = threading.Lock()
        self._decoders = threading.Semaphore(max(1, settings.cpu_threads()))
        self._large = threading.Lock()

    def prepare(self, source: TaskImages, reference: ImageReference, model: ModelIdentity) -> Picture:
        """Fetches an image and finds its tokens, or makes its pixels.

        Raises:
            ImageError: it can't be tagged; asking again won't help.
            ImageUnreachable: asking again later may help.
        """
        with self._metrics.stage("fetch"):
            data = source.fetch(reference)
        preprocessing = model.bundle.preprocessing
        content = hashlib.sha256(data).hexdigest()
        key = token_key(content, preprocessing.id, model.encoder_id)
        size = _size(data)
        entry = self._cache.get(key)
        tokens = None if entry is None else entry.tokens
        self._metrics.token_lookup(hit=tokens is not None)
        if entry is not None:
            return Picture(key, content, entry.phash, entry.size, tokens, None)
        with self._turn(size), self._metrics.stage("decode"):
            try:
                image, size = decode(
                    data,
                    exif_orientation=preprocessing.exif_orientation,
                    alpha=preprocessing.alpha,
                    max_pixels=self._settings.max_image_pixels,
                    max_bytes=self._settings.max_image_bytes,
                    name=f"image of task {reference.task}",
                )
                pixels = preprocessing(image)
                phash = self._remember(content, perceptual_hash(image))
            except MemoryError:
                raise ImageUnreadable(f"Image of task {reference.task}: not enough memory for it. Shrink it.") from None
        return Picture(key, content, phash, size, None, pixels)

    def keep(self, picture: Picture, tokens: FloatArray) -> FloatArray:
        """Stores new tokens; returns those to score, rounded as they are stored."""
        return self._cache.put(picture.key, CachedImage(tokens, picture.phash or 0, picture.size))

    def _remember(self, content: str, phash: int) -> int:
        with self._hashing:
            self._hashes[content] = phash
            while len(self._hashes) > KEPT_HASHES:
                self._hashes.popitem(last=False)
        return phash

    @contextmanager
    def _turn(self, size: tuple[int, int] | None) -> Iterator[None]:
        if size is not None and LARGE_PIXELS <= size[0] * size[1] <= self._settings.max_image_pixels:
            with self._large, self._decoders:
                yield
        else:
            with self._decoders:
                yield


def _size(data: bytes) -> tuple[int, int] | None:
    """(width, height) upright, from the header; None where there is no header that can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            exif = Image.Image.getexif(image)  # that of PNG files decodes them whole to look behind the pixels, too
            if image.format == "PNG" and (late := _exif_chunk(data)):
                exif.load(late)
            turned = exif.get(ExifTags.Base.Orientation) in _TURNED
            return (image.height, image.width) if turned else image.size
    except Exception:  # hostile headers fail in too many ways to list them; `decode` says what is wrong
        return None


def _exif_chunk(data: bytes) -> bytes:
    """What a PNG file's last eXIf chunk holds; empty where there is none."""
    at = data.rfind(b"eXIf")
    if at < 4 or data[at + 4 : at + 8] not in (b"II*\0", b"MM\0*"):  # pixels may have the same four bytes
        return b""
    return data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
