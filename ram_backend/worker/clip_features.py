"""What CLIP sees in corrected images, for bundles whose texts CLIP embeds: a tuned head is held to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import ImageError, TextEncoderUnavailable
from ram_backend.tagging.token_cache import CachedImage, TokenCache, token_key
from ram_backend.worker.token_loader import Pictures, Seen

if TYPE_CHECKING:
    from ram_backend.models.clip_image import ClipImageEncoder

FloatArray = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

STAGE = "what CLIP sees"
_log = logging.getLogger(__name__)


def clip_features(
    pictures: Pictures, seen: Seen, rows: NDArray[np.int64], progress: Progress
) -> Mapping[str, FloatArray] | None:
    """CLIP's image features, from the cache or of images that are fetched once more.

    Args:
        pictures: that found the images; says of which bundle.
        seen: the images.
        rows: which of them.
        progress: told of stage, step and steps.

    Returns:
        Features (d,), rounded to float16, by the sha256 of the image's bytes; images that can't be had now are missing.
        None: the bundle knows nothing of CLIP, or CLIP's weights are not at hand.
    """
    if pictures.bundle.text_encoder != "clip-vit-b-16":
        return None
    from ram_backend.models.clip_image import load_clip_image_encoder

    settings = pictures.settings
    try:
        encoder = load_clip_image_encoder(settings.clip_weights, device=settings.device)
    except TextEncoderUnavailable as error:
        _log.warning("The head is tuned without CLIP's help: %s", error)
        return None
    return _features(encoder, pictures, seen, rows, progress)


def _features(
    encoder: ClipImageEncoder, pictures: Pictures, seen: Seen, rows: NDArray[np.int64], progress: Progress
) -> Mapping[str, FloatArray]:
    settings = pictures.settings
    cache = TokenCache(settings.cache_dir / "clip-features", settings.token_cache_bytes)
    found: dict[str, FloatArray] = {}
    new: list[int] = []
    for row in rows.tolist():
        content = seen.content[row]
        cached = cache.get(token_key(content, encoder.preprocessing.id, encoder.id))
        if cached is not None and cached.tokens.shape == (1, encoder.dim):
            found[content] = cached.tokens[0]
        else:
            new.append(row)
    waiting: dict[str, FloatArray] = {}

    def encode() -> None:
        if waiting:
            for content, feature in zip(waiting, encoder.encode(np.stack(list(waiting.values()))), strict=True):
                key = token_key(content, encoder.preprocessing.id, encoder.id)
                found[content] = cache.put(key, CachedImage(feature[None], 0, (0, 0)))[0]
            waiting.clear()

    for count, (row, outcome) in enumerate(pictures.fetch(seen.labels, new)):
        progress(STAGE, count, len(new))
        if not isinstance(outcome, bytes):
            continue
        try:
            content, image = pictures.decoded(outcome, seen.labels[row].task_id)
        except ImageError:
            continue
        if content == seen.content[row]:  # else it is another image by now
            waiting[content] = encoder.preprocessing(image)
        if len(waiting) == settings.batch_size:
            encode()
    encode()
    wanted = {seen.content[row] for row in rows}
    if len(found) < len(wanted):
        _log.warning("CLIP has seen %d of %d corrected images; the others can't be had now.", len(found), len(wanted))
    return found
