"""Scores of image files by all taggers of one encoder in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import ImageError
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import LoadedImage, open_image_loader
from ram_backend.tagging.tagger import Tagger

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredImages:
    """N images that could be read, scored by K taggers.

    Attributes:
        rows: (N,) their places in the list of files.
        sha256: of each file's bytes, in hex.
        phash: (N,) uint64 perceptual hashes.
        scores: per tagger (N, L) float32.
        tokens: (N, T, D) float16 where they were asked for; else empty.
        errors: why each other file could not be read.
    """

    rows: NDArray[np.int64]
    sha256: tuple[str, ...]
    phash: NDArray[np.uint64]
    scores: tuple[FloatArray, ...]
    tokens: NDArray[np.float16]
    errors: tuple[ImageError, ...]


def score_images(
    taggers: Sequence[Tagger],
    paths: Sequence[Path],
    settings: Settings,
    *,
    keep_tokens: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> ScoredImages:
    """Scores files; tokens are neither cached nor rounded, as in `ram-backend tag`.

    Args:
        taggers: at least one, all with the same encoder.
        paths: image files.
        settings: batch size, threads, limits.
        keep_tokens: give the tokens back.
        progress: called with the number of images of each batch.
    """
    bundle, network = taggers[0].bundle, taggers[0].network
    threads = settings.cpu_threads()
    loader = open_image_loader(
        settings, bundle.preprocessing, network.encoder_id, cached=False, decoders=threads, hashed=True
    )
    rows, sha256, phash, errors = list[int](), list[str](), list[int](), list[ImageError]()
    scores = [[np.empty((0, len(each.tags)), np.float32)] for each in taggers]
    tokens = [np.empty((0, *network.token_shape), np.float16)]
    done = 0
    for batch in loader.batches(paths, settings.batch_size, threads=threads):
        images: list[LoadedImage] = []
        for row, (_, image) in enumerate(batch, start=done):
            if isinstance(image, ImageError):
                errors.append(image)
            else:
                rows.append(row)
                images.append(image)
        done += len(batch)
        progress(len(batch))
        if not images:
            continue
        encoded = np.stack(loader.encode(network, images))
        for tagger, parts in zip(taggers, scores, strict=True):
            parts.append(tagger.score(encoded).scores)
        tokens += [encoded.astype(np.float16)] if keep_tokens else []
        sha256 += [each.sha256 for each in images]
        phash += [each.phash for each in images]
    return ScoredImages(
        rows=np.array(rows, dtype=np.int64),
        sha256=tuple(sha256),
        phash=np.array(phash, dtype=np.uint64),
        scores=tuple(map(np.concatenate, scores)),
        tokens=np.concatenate(tokens),
        errors=tuple(errors),
    )
