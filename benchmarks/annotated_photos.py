"""Labelled photos as training sees them: scored by a bundle, corrected by a simulated annotator, learned from.

The annotator sees the tags that are ticked, corrects them by the set's own labels, and leaves all other boxes of the
list untouched; tags that nobody can be sure of are nobody's corrections. Weights are those of the product, and so is a
round of learning: split, fit, judge. Only a tuned head never competes, as on any machine without a GPU.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ram_backend.feedback.labels import Weights
from ram_backend.gate.folds import Split, split
from ram_backend.gate.judge import Verdict, judge_candidate, refuse_before_fitting
from ram_backend.gate.training_set import TrainingSet
from ram_backend.images.decode import decode
from ram_backend.images.hashing import perceptual_hash
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.models.calibration import sigmoid
from ram_backend.models.delta import features_of
from ram_backend.models.network import Network, load_network
from ram_backend.models.starter.bundle import DESCRIPTION, install_starter
from ram_backend.settings import Settings
from ram_backend.tagging.subset import Subset, resolve_subset, tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.training.selection import Candidate, fit_candidate
from ram_backend.vocabulary.embeddings import open_text_encoder
from starter.build import build_starter
from starter.data import LabelledPhoto, label_matrix, read_set, set_tags

SET = "flickr8k_tags"
"""The set that is large enough for corrections by the thousand."""
BATCH = 16
WEIGHTS = Weights()

Item = TypeVar("Item")
Result = TypeVar("Result")
_WORK: list[Callable[[Any], Any]] = []
"""Of a forked process: what it does."""


@dataclass(frozen=True)
class AnnotatedPhotos:
    """One labelled set.

    Attributes:
        training_set: all N photos, corrected; `tokens` are memory-mapped.
        labels: (N, L) bool, what the set says.
        known: (N, L) bool, pairs that it says anything about.
        split: (N,) "train", "val" or "test".
        bundle: what scored the photos.
        network: its network.
        subset: what was asked of the bundle.
    """

    training_set: TrainingSet
    labels: NDArray[np.bool_]
    known: NDArray[np.bool_]
    split: NDArray[np.str_]
    bundle: Bundle
    network: Network
    subset: Subset

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Rows of these splits."""
        return np.flatnonzero(np.isin(self.split, splits))

    def without_tokens(self, rows: NDArray[np.int64]) -> TrainingSet:
        """The corrections of these photos, without tokens, which would be read from disk for nothing."""
        return replace(self.training_set, tokens=None).take(rows)

    def weights_under(self, rows: NDArray[np.int64], served: Candidate | None) -> NDArray[np.float32]:
        """How much the labels of these photos are believed, (n, L), where the annotator sees what this version ticks.

        None: what the bundle ticks, as in `training_set`.
        """
        training_set = self.training_set
        if served is None:
            return training_set.weights[rows]
        log_odds = served.logits(training_set.base[rows], training_set.features[rows])
        ticked = sigmoid(log_odds.astype(np.float64)) > served.delta.thresholds
        return corrected(self.labels[rows], self.known[rows], ticked)

    def with_features_of_others(self, seed: int) -> AnnotatedPhotos:
        """The same photos, scores and corrections, each photo with the features of another one: they say nothing."""
        order = np.random.default_rng(seed).permutation(len(self.training_set))
        mixed = replace(self.training_set, tokens=None, features=self.training_set.features[order])
        return replace(self, training_set=mixed)

    def asking(self, columns: NDArray[np.int64]) -> AnnotatedPhotos:
        """The same photos in a project that asks only for the tags in these columns."""
        training_set = self.training_set
        base = training_set.base[:, columns]
        fewer = replace(
            training_set,
            tags=tuple(training_set.tags[column] for column in columns),
            base=base,
            incumbent=base,
            labels=training_set.labels[:, columns],
            weights=training_set.weights[:, columns],
            base_thresholds=training_set.base_thresholds[columns],
            embeddings=None if training_set.embeddings is None else training_set.embeddings[columns],
        )
        return replace(self, training_set=fewer, labels=self.labels[:, columns], known=self.known[:, columns])


@dataclass(frozen=True)
class TrainingRound:
    """What became of one round of learning.

    Attributes:
        verdict: of the gate.
        candidate: what it was asked about; None where nothing was fitted.
        parts: photos of the fit and of the gate.
    """

    verdict: Verdict
    candidate: Candidate | None
    parts: Split

    @property
    def served(self) -> Candidate | None:
        """The candidate, if the gate accepts it."""
        return self.candidate if self.verdict.accepted else None


def learning_round(training_set: TrainingSet, seed: int, *, at_most: float | None = None) -> TrainingRound:
    """One round of the product, see `ram_backend/worker/train.py`.

    Args:
        training_set: all corrections, with the scores of what is served now.
        seed: of random numbers.
        at_most: share of the gate in the round that the served version comes from.
    """
    parts = split(training_set, at_most=at_most)
    refusal = refuse_before_fitting(training_set, parts, seed)
    if refusal is not None:
        return TrainingRound(refusal, None, parts)
    candidate = fit_candidate(training_set.take(parts.fit), parts.groups[parts.fit], seed=seed)
    side = training_set.take(parts.gate)
    verdict = judge_candidate(training_set, parts, candidate.logits(side.base, side.features), seed=seed)
    return TrainingRound(verdict, candidate, parts)


def in_processes(work: Callable[[Item], Result], items: Sequence[Item], processes: int) -> list[Result]:
    """What `work` gives for each item, in their order, computed by so many processes with one BLAS thread each.

    Processes are forked: they find the photos in memory, and only items and results are sent.
    """
    if processes < 2 or len(items) < 2:
        return [work(item) for item in items]
    with multiprocessing.get_context("fork").Pool(processes, initializer=_begin, initargs=(work,)) as pool:
        return pool.map(_do, items, chunksize=1)


def _begin(work: Callable[[Any], Any]) -> None:
    threadpool_limits(1)
    _WORK[:] = [work]


def _do(item: Any) -> Any:
    return _WORK[0](item)


def starter_without_set(
    data: Path, settings: Settings, name: str, *, without_tags: Sequence[str] = (), threads: int = 2
) -> Path:
    """A starter's source folder that was built without `SET`, now or before.

    Args:
        data: folder with the labelled sets.
        settings: where it is cached.
        name: of the folder; one for each choice of tags.
        without_tags: left out as well, see `build_starter`.
        threads: CPU threads.
    """
    where = settings.cache_dir / "learning-curve" / name
    if (where / DESCRIPTION).is_file():  # it is written last
        return where
    features = settings.cache_dir / "starter-features"
    return build_starter(
        data, where, leave_out_sets=[SET], leave_out_tags=without_tags, cache=features, threads=threads
    )


def open_base(source: Path, settings: Settings) -> Bundle:
    """A bundle directory as it is, or a starter's source folder, installed under a name that follows from its files."""
    if not (source / DESCRIPTION).is_file():
        return open_bundle(source)
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return open_bundle(install_starter(settings.bundles_dir, source=source, name=f"benchmark-{digest[:12]}"))


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
    base = np.concatenate([part.log_odds for part in found])
    ticked = np.concatenate([part.scores for part in found]) > tagger.thresholds
    labels, known = label_matrix(photos, tags)
    training_set = TrainingSet(
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
        base_thresholds=subset.thresholds,
        embeddings=tag_embeddings(bundle, subset),
    )
    splits = np.array([photo.split for photo in photos])
    return AnnotatedPhotos(training_set, labels & known, known, splits, bundle, network, subset)


def corrected(
    labels: NDArray[np.bool_], known: NDArray[np.bool_], ticked: NDArray[np.bool_], weights: Weights = WEIGHTS
) -> NDArray[np.float32]:
    """How much each label is believed, (N, L), in a list that is on screen as a whole; all arguments (N, L)."""
    said = labels | ticked
    return (np.where(said, 1.0, weights.untouched_listed) * known).astype(np.float32)


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
                decode(photo.path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)[0]
                for photo in photos[at : at + BATCH]
            ]
            tokens.append(tagger.encode(images).astype(np.float16))
            hashes.extend(perceptual_hash(image) for image in images)
        np.save(tokens_file, np.concatenate(tokens))
        np.save(hashes_file, np.array(hashes, dtype=np.uint64))
    return np.load(tokens_file, mmap_mode="r"), np.load(hashes_file)
