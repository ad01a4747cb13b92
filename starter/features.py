"""Data augmentation and a feature cache: image tokens of the training photos, per view."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.starter.components import TOKENS, WIDTH
from starter.data import LabelledPhoto

View = Callable[[Image.Image, random.Random], Image.Image]
_BATCH = 8


def plain(image: Image.Image, rng: random.Random) -> Image.Image:
    """The photo as it is."""
    return image


def mirrored(image: Image.Image, rng: random.Random) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def varied(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random part (40 to 100 % of the area, aspect 3:4 to 4:3), perhaps mirrored, its light and colour shifted."""
    width, height = image.size
    for _ in range(10):
        area, aspect = width * height * rng.uniform(0.4, 1.0), np.exp(rng.uniform(np.log(0.75), np.log(4 / 3)))
        across, down = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if across <= width and down <= height:
            left, top = rng.randint(0, width - across), rng.randint(0, height - down)
            image = image.crop((left, top, left + across, top + down))
            break
    side = min(image.size)
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhance, amount in ((ImageEnhance.Brightness, 0.25), (ImageEnhance.Contrast, 0.25), (ImageEnhance.Color, 0.2)):
        image = enhance(image).enhance(rng.uniform(1 - amount, 1 + amount))
    return image


VIEWS: dict[str, View] = {
    "plain": plain,
    "mirrored": mirrored,
    "varied-1": varied,
    "varied-2": varied,
    "varied-3": varied,
}


class FeatureStore:
    """Tokens of photos under named views, kept as float16 files that are named by what they were made of."""

    def __init__(
        self, encoder: Path, encoder_digest: str, preprocessing: Preprocessing, cache: Path, threads: int
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"])
        self._identity = f"{encoder_digest}/{preprocessing.id}"
        self._preprocessing = preprocessing
        self._cache = cache

    def tokens(
        self, photos: Sequence[LabelledPhoto], view: str = "plain", progress: Callable[[str], None] | None = None
    ) -> NDArray[np.float16]:
        """(N, 26, 1454) float16, in the order of the photos."""
        names = [f"{photo.set_name}/{photo.path.name}" for photo in photos]
        key = hashlib.sha256("\n".join([self._identity, view, *names]).encode()).hexdigest()[:20]
        file = self._cache / f"{key}.npy"
        if file.is_file():
            return np.load(file)
        result = np.empty((len(photos), TOKENS, WIDTH), dtype=np.float16)
        for start in range(0, len(photos), _BATCH):
            if progress and start % (_BATCH * 32) == 0:
                progress(f"features ({view}): {start} of {len(photos)} photos")
            batch = slice(start, start + _BATCH)
            pixels = np.stack(
                [self._pixels(photo, name, view) for photo, name in zip(photos[batch], names[batch], strict=True)]
            )
            result[batch] = self._session.run(None, {"pixels": pixels})[0]
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        np.save(partial, result)
        partial.rename(file)
        return result

    def _pixels(self, photo: LabelledPhoto, name: str, view: str) -> NDArray[np.float32]:
        with Image.open(photo.path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return self._preprocessing(VIEWS[view](upright, random.Random(f"{view}/{name}")))
