"""Labelled photos as training sees them: scored by a bundle, corrected by a simulated annotator, learned from.

The annotator ticks what the set's own labels say; tags that nobody can be sure of are nobody's corrections. A round of
learning is the product's: fit, cross-fit, judge. Only a tuned head never competes, as on any machine without a GPU.
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

from ram_backend.gate.judge import Verdict, judge_candidate, refuse_before_fitting
from ram_backend.gate.training_set import TrainingSet
from ram_backend.images.decode import decode, perceptual_hash
from ram_backend.images.near_duplicates import group_near_duplicates
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.models.delta import features_of
from ram_backend.models.network import Network, load_network
from ram_backend.models.starter.install import DESCRIPTION, install_starter
from ram_backend.settings import Settings
from ram_backend.tagging.subset import Subset, resolve_subset, tag_embeddings
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.training.selection import Candidate, fit_candidate
from ram_backend.vocabulary.embeddings import open_text_encoder
from starter.build import build_starter
from starter.data import LabelledPhoto, label_matrix, read_set, set_tags

SET = "flickr8k_tags"
"""The set that is large enough for corrections by the thousand."""
BATCH = 16

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
            incumbent_thresholds=training_set.incumbent_thresholds[columns],
            add_costs=training_set.add_costs[columns],
            embeddings=None if training_set.embeddings is None else training_set.embeddings[columns],
        )
        return replace(self, training_set=fewer, labels=self.labels[:, columns], known=self.known[:, columns])


@dataclass(frozen=True)
class Served:
    """A version that is served, and the photos that it was fitted on."""

    candidate: Candidate
    content: frozenset[str]


@dataclass(frozen=True)
class TrainingRound:
    """What became of one round of learning.

    Attributes:
        verdict: of the gate.
        candidate: what it was asked about; None where nothing was fitted.
        served: the candidate, if the gate accepts it; else None.
    """

    verdict: Verdict
    candidate: Candidate | None
    served: Served | None


def learning_round(
    training_set: TrainingSet, served: Served | None, seed: int, *, look_alikes: bool = True
) -> TrainingRound:
    """One round of the product, see `ram_backend/worker/train.py`.

    Args:
        training_set: all corrections, with scores and thresholds of the bundle as the incumbent's.
        served: what is served now; None: the bundle.
        seed: of random numbers.
        look_alikes: False: each photo is a group of its own.
    """
    if not look_alikes:
        training_set = replace(training_set, groups=np.arange(len(training_set)))
    refusal = refuse_before_fitting(training_set, seed)
    if refusal is not None:
        return TrainingRound(refusal, None, None)
    candidate = fit_candidate(training_set, seed=seed)
    verdict = judge_candidate(
        against(training_set, served), candidate.log_odds, evaluated=candidate.evaluated, seed=seed
    )
    content = frozenset(training_set.content)
    return TrainingRound(verdict, candidate, Served(candidate, content) if verdict.accepted else None)


def against(training_set: TrainingSet, served: Served | None) -> TrainingSet:
    """The training set with a served version as the incumbent, read out of fold where it was fitted on a photo."""
    if served is None:
        return training_set
    incumbent = served.candidate.delta.log_odds(training_set.base, training_set.features)
    seen = np.array([each in served.content for each in training_set.content])
    for fold, delta in served.candidate.folds.items():
        rows = seen & (training_set.folds == fold)
        incumbent[rows] = delta.log_odds(training_set.base[rows], training_set.features[rows])
    return replace(training_set, incumbent=incumbent, incumbent_thresholds=training_set.thresholds)


def edits_of(photos: TrainingSet, served: Served | Candidate | None) -> float:
    """Edits per photo of what is served (None: the bundle), by the labels of these photos."""
    if served is None:
        return float(photos.edits(photos.base, photos.incumbent_thresholds).mean())
    delta = served.delta if isinstance(served, Candidate) else served.candidate.delta
    return float(photos.edits(delta.log_odds(photos.base, photos.features), photos.thresholds).mean())


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
    labels, known = label_matrix(photos, tags)
    content = tuple(photo.sha256() for photo in photos)
    training_set = TrainingSet(
        tags=tuple(tags),
        features=features_of(tokens),
        tokens=tokens,
        base=base,
        incumbent=base,
        labels=labels & known,
        weights=known.astype(np.float32),
        content=content,
        groups=group_near_duplicates(hashes, content),
        base_thresholds=subset.thresholds,
        incumbent_thresholds=subset.thresholds,
        add_costs=np.ones(len(tags), dtype=np.float32),
        calibrated=subset.calibration.fitted,
        embeddings=tag_embeddings(bundle, subset),
    )
    splits = np.array([photo.split for photo in photos])
    return AnnotatedPhotos(training_set, labels & known, known, splits, bundle, network, subset)


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
