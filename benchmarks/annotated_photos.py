"""Labelled photos as training sees them: scored by a bundle, corrected by a simulated annotator.

The annotator sees the tags that the bundle ticks, corrects them by the set's own labels, and leaves all other boxes of
the list untouched; tags that nobody can be sure of are nobody's corrections. Weights are those of the product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.feedback.weights import Weights
from ram_backend.images import decode, perceptual_hash
from ram_backend.models import Bundle, Network, features_of, load_network, open_bundle
from ram_backend.models.starter import DESCRIPTION, install_starter
from ram_backend.settings import Settings
from ram_backend.tagging import TOKEN_DTYPE, Subset, Tagger, resolve_subset, tag_embeddings
from ram_backend.training.material import Material
from ram_backend.training.starter_data import LabelledPhoto, label_matrix, read_set, set_tags
from ram_backend.vocabulary import open_text_encoder

BATCH = 16
WEIGHTS = Weights()


@dataclass(frozen=True)
class AnnotatedPhotos:
    """One labelled set.

    Attributes:
        material: all N photos, corrected; `tokens` are memory-mapped.
        labels: (N, L) bool, what the set says.
        known: (N, L) bool, pairs that it says anything about.
        split: (N,) "train", "val" or "test".
        bundle: what scored the photos.
        network: its network.
        subset: what was asked of the bundle.
    """

    material: Material
    labels: NDArray[np.bool_]
    known: NDArray[np.bool_]
    split: NDArray[np.str_]
    bundle: Bundle
    network: Network
    subset: Subset

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Rows of these splits."""
        return np.flatnonzero(np.isin(self.split, splits))

    def asking(self, columns: NDArray[np.int64]) -> AnnotatedPhotos:
        """The same photos in a project that asks only for the tags in these columns."""
        material = self.material
        base = material.base[:, columns]
        fewer = replace(
            material,
            tags=tuple(material.tags[column] for column in columns),
            base=base,
            incumbent=base,
            labels=material.labels[:, columns],
            weights=material.weights[:, columns],
            known_tags=material.known_tags[columns],
            base_thresholds=material.base_thresholds[columns],
            embeddings=None if material.embeddings is None else material.embeddings[columns],
        )
        return replace(self, material=fewer, labels=self.labels[:, columns], known=self.known[:, columns])


def open_base(source: Path, settings: Settings, *, name: str) -> Bundle:
    """A bundle directory as it is, or a starter's source folder installed under a name of its own."""
    if (source / DESCRIPTION).is_file():
        return open_bundle(install_starter(settings.bundles_dir, source=source, name=name))
    return open_bundle(source)


def annotated(
    data: Path, name: str, bundle: Bundle, settings: Settings, *, new: Sequence[str] = (), threads: int = 2
) -> AnnotatedPhotos:
    """Reads, scores and corrects one labelled set.

    Args:
        data: folder with the labelled sets.
        name: of the set.
        bundle: what the annotator is helped by.
        settings: where tokens are cached.
        new: tags that are scored from their text alone, as if the vocabulary didn't have them.
        threads: CPU threads.
    """
    photos, tags = read_set(data, name), set_tags(data, name)
    network = load_network(bundle, threads=threads)
    encoder = open_text_encoder(bundle.text_encoder, settings) if bundle.text_encoder is not None else None
    described = {} if encoder is None or not new else dict(zip(new, encoder.embed(list(new))[:, None], strict=True))
    subset = resolve_subset(bundle, tags, encoder, described=described)
    tagger = Tagger(bundle, network, subset, token_dtype=TOKEN_DTYPE)
    tokens, hashes = _tokens(photos, name, tagger, settings.cache_dir / "annotated-photos")
    found = [tagger.score(tokens[at : at + BATCH].astype(np.float32)) for at in range(0, len(tokens), BATCH)]
    base = np.concatenate([tagger.log_odds(part) for part in found])
    ticked = np.concatenate([part.scores for part in found]) > tagger.thresholds
    labels, known = label_matrix(photos, tags)
    material = Material(
        tags=tuple(tags),
        features=features_of(tokens),
        tokens=tokens,
        base=base,
        incumbent=base,
        labels=labels & known,
        weights=corrected(labels, known, ticked),
        content=tuple(photo.sha256() for photo in photos),
        phash=hashes,
        ground_truth=np.zeros(len(photos), dtype=np.bool_),
        known_tags=np.array([isinstance(entry, int) for entry in subset.entries]),
        base_thresholds=subset.thresholds,
        embeddings=tag_embeddings(bundle, subset),
    )
    split = np.array([photo.split for photo in photos])
    return AnnotatedPhotos(material, labels & known, known, split, bundle, network, subset)


def corrected(
    labels: NDArray[np.bool_], known: NDArray[np.bool_], ticked: NDArray[np.bool_], weights: Weights = WEIGHTS
) -> NDArray[np.float32]:
    """How much each label is believed, (N, L), in a list that is on screen as a whole; all arguments (N, L)."""
    said = np.where(ticked, weights.removed, weights.untouched_listed)
    said = np.where(labels, np.where(ticked, weights.confirmed, weights.added), said)
    return (said * known).astype(np.float32)


def _tokens(
    photos: Sequence[LabelledPhoto], name: str, tagger: Tagger, cache: Path
) -> tuple[NDArray[np.float16], NDArray[np.uint64]]:
    """Image tokens, memory-mapped, and perceptual hashes; both are kept for the next time."""
    identity = f"{tagger.network.encoder_id} {tagger.bundle.preprocessing.id} {[photo.path.name for photo in photos]}"
    stem = f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    tokens_file, hashes_file = cache / f"{stem}-tokens.npy", cache / f"{stem}-hashes.npy"
    if not (tokens_file.is_file() and hashes_file.is_file()):
        cache.mkdir(parents=True, exist_ok=True)
        tokens: list[NDArray[np.float16]] = []
        hashes: list[int] = []
        for at in range(0, len(photos), BATCH):
            images = [
                decode(photo.path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)
                for photo in photos[at : at + BATCH]
            ]
            tokens.append(tagger.encode(images).astype(np.float16))
            hashes.extend(perceptual_hash(image) for image in images)
        np.save(tokens_file, np.concatenate(tokens))
        np.save(hashes_file, np.array(hashes, dtype=np.uint64))
    return np.load(tokens_file, mmap_mode="r"), np.load(hashes_file)
