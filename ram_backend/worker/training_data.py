"""Scores of corrected images under the bundle and under what is served: what training material is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.errors import ImageError
from ram_backend.feedback.labels import to_matrix
from ram_backend.gate.training_set import TrainingSet
from ram_backend.images.decode import decode
from ram_backend.models.bundle import Bundle
from ram_backend.models.delta import features_of
from ram_backend.models.network import Network
from ram_backend.settings import Settings
from ram_backend.tagging.subset import Subset, resolve_subset, tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.versions.directory import Version
from ram_backend.worker.token_loader import EncodedImages

FloatArray = NDArray[np.float32]

AT_ONCE = 64
"""Images that are scored at a time."""

_log = logging.getLogger(__name__)


class Scorer:
    """Scores tags of one bundle.

    Args:
        bundle: the base model.
        network: loaded from it.
        tags: L distinct texts.
        settings: for the text encoder, which is opened only where a tag is not in the vocabulary.

    Raises:
        TextEncoderUnavailable: a tag is not in the vocabulary, and the bundle has no text encoder at hand.
    """

    def __init__(self, bundle: Bundle, network: Network, tags: Sequence[str], settings: Settings) -> None:
        self.bundle = bundle
        self.network = network
        self._settings = settings
        self.subset = _subset(bundle, tags, settings)
        self._base = Tagger(bundle, network, self.subset, token_dtype=TOKEN_DTYPE)

    def base(self, tokens: NDArray[np.float16], progress: Callable[[int, int], None]) -> tuple[FloatArray, FloatArray]:
        """Features (N, F) and the bundle's calibrated log-odds (N, L) of images with these tokens (N, T, D)."""
        features = [features_of(some) for some in _portions(tokens)]
        width = self.network.token_shape[1]
        stacked = np.concatenate(features) if features else np.empty((0, width), dtype=np.float32)
        return stacked, self._log_odds(self._base, tokens, progress)

    def with_version(
        self, version: Version, tokens: NDArray[np.float16], progress: Callable[[int, int], None]
    ) -> FloatArray:
        """Calibrated log-odds (N, L) under a version.

        Raises:
            VersionDamaged: it was made for another bundle.
        """
        from ram_backend.models.tuned import has_tuned_head, tuned_network

        if has_tuned_head(version.files):
            network = tuned_network(self.network, version.files)
            tagger = Tagger(
                self.bundle, network, self.subset, token_dtype=TOKEN_DTYPE, delta=version.delta, version=version.digest
            )
        else:
            tagger = self._base.with_version(version.delta, version.digest)
        return self._log_odds(tagger, tokens, progress)

    def with_head(
        self, files: Mapping[str, bytes], tokens: NDArray[np.float16], progress: Callable[[int, int], None]
    ) -> FloatArray:
        """The bundle's calibrated log-odds (N, L), were its head the one in these files of a version.

        Raises:
            VersionDamaged: they are of no such head.
        """
        from ram_backend.models.tuned import tuned_network

        network = tuned_network(self.network, files)
        return self._log_odds(Tagger(self.bundle, network, self.subset, token_dtype=TOKEN_DTYPE), tokens, progress)

    @cached_property
    def photo_tokens(self) -> NDArray[np.float16]:
        """Tokens (P, T, D) of the photos that come with the package; those that can't be read are missing."""
        preprocessing = self.bundle.preprocessing
        tokens: list[NDArray[np.float16]] = []
        for path in photo_paths():
            try:
                image, _ = decode(
                    path,
                    exif_orientation=preprocessing.exif_orientation,
                    alpha=preprocessing.alpha,
                    max_pixels=self._settings.max_image_pixels,
                    max_bytes=self._settings.max_image_bytes,
                )
            except ImageError as error:
                _log.warning("%s", error)
                continue
            tokens.append(self.network.encode(preprocessing(image)[None])[0].astype(np.float16))
        return np.stack(tokens) if tokens else np.empty((0, *self.network.token_shape), dtype=np.float16)

    @staticmethod
    def _log_odds(tagger: Tagger, tokens: NDArray[np.float16], progress: Callable[[int, int], None]) -> FloatArray:
        rows = np.empty((len(tokens), len(tagger.tags)), dtype=np.float32)
        for start, some in zip(range(0, len(tokens), AT_ONCE), _portions(tokens), strict=True):
            progress(start, len(tokens))
            rows[start : start + AT_ONCE] = tagger.score(some).log_odds
        return rows


def material_of(
    images: EncodedImages, scorer: Scorer, incumbent: Version | None, progress: Callable[[str, int, int], None]
) -> TrainingSet:
    """What training learns from.

    Args:
        images: N images with what was said about them.
        scorer: of L tags.
        incumbent: what is served; None: the bundle itself.
        progress: told of stage, step and steps.

    Raises:
        VersionDamaged: the incumbent was made for another bundle.
    """
    features, base = scorer.base(images.tokens, lambda step, steps: progress("scores", step, steps))
    served = base
    if incumbent is not None:
        served = scorer.with_version(
            incumbent, images.tokens, lambda step, steps: progress("scores of the version", step, steps)
        )
    labels, weights = to_matrix(images.labels, scorer.subset.names)
    return TrainingSet(
        tags=scorer.subset.names,
        features=features,
        tokens=images.tokens,
        base=base,
        incumbent=served,
        labels=labels,
        weights=weights,
        content=images.content,
        phash=images.phash,
        ground_truth=np.array([each.ground_truth for each in images.labels], dtype=np.bool_),
        base_thresholds=scorer.subset.thresholds,
        embeddings=tag_embeddings(scorer.bundle, scorer.subset),
    )


def _subset(bundle: Bundle, tags: Sequence[str], settings: Settings) -> Subset:
    needed = bundle.text_encoder is not None and any(row is None for row in bundle.vocabulary.resolve(tags))
    if not needed or bundle.text_encoder is None:
        return resolve_subset(bundle, tags)
    from ram_backend.vocabulary.embeddings import open_text_encoder

    return resolve_subset(bundle, tags, open_text_encoder(bundle.text_encoder, settings))


def _portions(tokens: NDArray[np.float16]) -> Iterator[FloatArray]:
    """Tokens in portions of `AT_ONCE`, float32."""
    for start in range(0, len(tokens), AT_ONCE):
        yield tokens[start : start + AT_ONCE].astype(np.float32)
