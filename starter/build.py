"""Build of the starter: from labelled photos to one folder with everything that ships.

photos + label system ── features, prior ──▶ out-of-fold models ── mixing, calibration, thresholds ──▶ folder
                                        └──▶ final head and probes ─────────────────────────────────────┘
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.models.bundle import file_sha256
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.starter.components import (
    CLASSES,
    IMAGE_SIZE,
    POOLINGS,
    Classifier,
    PriorTags,
    background_evidence,
    background_stats,
    class_weights,
)
from ram_backend.vocabulary.label_system import SOURCES, load_label_system, read_senses
from ram_backend.vocabulary.minilm import MiniLMTextEncoder
from ram_backend.vocabulary.tags import Vocabulary
from starter.data import (
    PRESENT,
    TRAINING_SETS,
    LabelledPhoto,
    Labeller,
    read_set,
    related_tags,
    set_tags,
)
from starter.features import FeatureStore
from starter.files import write_source
from starter.fitting import HEAD_POSITIVES, TrainingSet
from starter.head import HeadOptions
from starter.imagenet import classes_of_tags, imagenet_classes
from starter.mixing import (
    OutOfFold,
    SharedMixing,
    TagCurves,
    calibrate,
    choose_unseen,
    fit_seen,
    log_rates,
    mixed,
)

Progress = Callable[[str], Any]
LargestClasses = tuple[NDArray[np.int32], NDArray[np.float16]]
"""Numbers and probabilities of each reference photo's largest classes, (R, 3, k) each."""

PREPROCESSING = Preprocessing(
    size=IMAGE_SIZE, resize="crop", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, exif_orientation=True,
    alpha="white",
)  # fmt: skip
TRAINING_VIEWS = ("plain", "mirrored", "varied-1")
TOP_CLASSES = 32
"""Classes kept per pooling of a reference photo."""

REFERENCE_PHOTOS = 300
FOLDS = 4
HEAD_OPTIONS = HeadOptions(epochs=10)

CLASS_SHOWN = (0.35, 0.2, 0.6)
"""Probability on the whole photo, its parts' mean and its best part where a kind of thing is as likely there as not."""

# What mixing was found to be best on the shipped training sets; used where a build skips the out-of-fold models.
USUAL_SEEN = SharedMixing(1.2, 4.3, 4.7, 0.14, 0.55, -1.2, 0.7, -2.0)
USUAL_UNSEEN = (0.1, 8.0, 1.0)


@dataclass(frozen=True)
class BuildInputs:
    """Everything that a build needs of its inputs, before anything is learned."""

    vocabulary: Vocabulary
    photos: list[LabelledPhoto]
    material: TrainingSet
    classes: list[list[int]]
    class_embeddings: NDArray[np.float32]
    reference: LargestClasses
    allowed: NDArray[np.bool_]
    listed: dict[str, NDArray[np.int64]]
    encoder_digest: str
    text_encoder_id: str
    preprocessing: Preprocessing


def build_starter(
    data: Path,
    out: Path,
    *,
    leave_out_sets: Iterable[str] = (),
    leave_out_tags: Iterable[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
    threads: int = 2,
    calibrated: bool = True,
    vocabulary: Vocabulary | None = None,
    options: HeadOptions = HEAD_OPTIONS,
) -> Path:
    """Builds the starter's folder from the train splits of the labelled sets.

    About ten minutes on two cores, most of them features (cached) and out-of-fold heads. The same inputs, seed and
    thread count give the same numbers on one machine.

    Args:
        data: folder with the labelled sets (`starter_data.TRAINING_SETS`), each with `images/` and `labels.jsonl`.
        out: folder to write; its old content of the same names is replaced.
        leave_out_sets: sets that nothing is learned from.
        leave_out_tags: tags that nothing is learned of, with their synonyms and broader tags.
        seed: of everything that is drawn.
        progress: told in a few words what is going on.
        cache: where features are kept for the next build; None: kept nowhere.
        threads: CPU threads.
        calibrated: False skips the out-of-fold models (for measuring how well unseen tags are ranked): usual mixing
            weights, no calibration.
        vocabulary: the tags; the shipped label system unless given.
        options: of the head.

    Returns:
        `out`.

    Raises:
        InputError: a set or a tag that is to be left out is not known, or the data are not there.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the head is small: a second thread costs more than it brings
    try:
        return _build(
            data, out, tuple(leave_out_sets), tuple(leave_out_tags), seed, progress or (lambda _: None), cache,
            threads, calibrated, vocabulary or load_label_system(), options,
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _build(
    data: Path, out: Path, leave_out_sets: tuple[str, ...], leave_out_tags: tuple[str, ...], seed: int, say: Progress,
    cache: Path | None, threads: int, calibrated: bool, vocabulary: Vocabulary, options: HeadOptions,
) -> Path:  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        inputs = _prepare(data, leave_out_sets, leave_out_tags, seed, say, cache or Path(scratch), threads, vocabulary)
    material = inputs.material
    counts = (material.states == PRESENT).sum(0)
    curves: TagCurves | None = None
    shared, unseen = USUAL_SEEN, np.array(USUAL_UNSEEN, dtype=np.float32)
    if calibrated:
        held_out = _out_of_fold(inputs, seed, say, options)
        own_counts, rates = counts[held_out.rows], log_rates(held_out)
        shared, unseen = fit_seen(held_out, own_counts, rates), choose_unseen(held_out)
        logits = np.where(
            held_out.seen,
            mixed(held_out.component_logits, shared.weights(own_counts)),
            mixed(held_out.component_logits, unseen),
        )
        measured = np.zeros(len(inputs.vocabulary), dtype=np.bool_)
        measured[np.concatenate(list(inputs.listed.values()))] = True
        grounded = np.array([bool(numbers) for numbers in inputs.classes])
        kinds = np.where(grounded, logit_at(material.prior, CLASS_SHOWN), np.nan)
        curves = calibrate(held_out, logits, shared.offsets(own_counts, rates), kinds, measured)
        say(f"mixing: trained tags {shared}, others {unseen.tolist()}")
    everyone = np.arange(len(inputs.photos))
    fitted = material.fit(everyone, inputs.allowed, options=options, seed=seed, progress=say)
    mixing = shared.weights(counts[fitted.probe_rows])
    write_source(out, inputs, fitted, mixing, unseen, curves, seed)
    say(f"written: {out}")
    return out


def _prepare(
    data: Path, leave_out_sets: Iterable[str], leave_out_tags: Iterable[str], seed: int, say: Progress, cache: Path,
    threads: int, vocabulary: Vocabulary,
) -> BuildInputs:  # fmt: skip
    from ram_backend.models.starter.export import encoder_weights_path, export_encoder, load_encoder

    sets = _chosen_sets(leave_out_sets)
    unknown = [tag for tag in leave_out_tags if vocabulary.find(tag) is None]
    if unknown:
        raise InputError(f"Tags to leave out that the vocabulary doesn't have: {', '.join(unknown)}. Remove them.")
    allowed = np.ones(len(vocabulary), dtype=np.bool_)
    allowed[list(related_tags(vocabulary, leave_out_tags))] = False

    synsets = {name: (sense.synset, sense.ancestors) for name, sense in read_senses(SOURCES / "wordnet.txt").items()}
    classes = classes_of_tags(vocabulary, synsets)
    photos = [photo for name in sets for photo in read_set(data, name, "train")]
    labeller = Labeller(data, vocabulary, classes, sets)
    states = np.stack([labeller.states(photo) for photo in photos])

    weights = encoder_weights_path()
    digest = file_sha256(weights)
    encoder, weight, bias = load_encoder(weights)
    onnx = cache / f"encoder-{digest[:16]}.onnx"
    if not onnx.is_file():
        say("exporting the encoder")
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f".encoder-{os.getpid()}.onnx"
        export_encoder(encoder, partial)
        partial.rename(onnx)
    store = FeatureStore(onnx, digest, PREPROCESSING, cache, threads)
    views = [store.tokens(photos, view, say) for view in TRAINING_VIEWS]

    say("embedding the tags")
    text = MiniLMTextEncoder(cache / "text-encoders", threads=threads)
    embeddings = _rounded(text.embed(vocabulary.names))
    class_embeddings = _rounded(text.embed_sentences([item.description for item in imagenet_classes()]))

    classifier = Classifier(weight, bias)
    reference = _reference(photos, views[0], classifier, seed)
    shares = class_weights(embeddings, classes, class_embeddings)
    prior = PriorTags(shares, *background_stats(shares, background_evidence(*reference)))
    listed = {
        name: np.array(sorted({row for row in map(vocabulary.find, set_tags(data, name)) if row is not None}))
        for name in sets
        if name != "imagenet_samples"
    }
    return BuildInputs(
        vocabulary, photos, TrainingSet(views, states, embeddings, classifier, prior), classes, class_embeddings,
        reference, allowed, listed, digest, text.id, PREPROCESSING,
    )  # fmt: skip


def _chosen_sets(leave_out: Iterable[str]) -> list[str]:
    out = set(leave_out)
    if not out <= set(TRAINING_SETS):
        raise InputError(
            f"No such sets: {', '.join(sorted(out - set(TRAINING_SETS)))}."
            f" Those to learn from: {', '.join(TRAINING_SETS)}."
        )
    kept = [name for name in TRAINING_SETS if name not in out]
    if not kept:
        raise InputError("All sets are left out: keep at least one to learn from.")
    return kept


def _reference(
    photos: list[LabelledPhoto], tokens: NDArray[np.float16], classifier: Classifier, seed: int
) -> LargestClasses:
    """Evidence of photos that were not chosen to show one class."""
    ordinary = [at for at, photo in enumerate(photos) if "imagenet_index" not in photo.entry] or list(
        range(len(photos))
    )
    chosen = np.random.default_rng(seed).permutation(ordinary)[:REFERENCE_PHOTOS]
    parts = [tokens[chosen[at : at + 32]].astype(np.float32) for at in range(0, len(chosen), 32)]
    return largest_classes(np.concatenate([classifier.class_probabilities(part) for part in parts]))


def largest_classes(evidence: NDArray[np.float32]) -> LargestClasses:
    """The `TOP_CLASSES` largest probabilities of (R, 3, K)."""
    classes = np.argsort(-evidence, axis=2, kind="stable")[:, :, :TOP_CLASSES]
    return classes.astype(np.int32), np.take_along_axis(evidence, classes, axis=2).astype(np.float16)


def logit_at(prior: PriorTags, probabilities: Sequence[float]) -> NDArray[np.float32]:
    """The prior's scores (L,) where the classes of each tag together have these probabilities per pooling."""
    evidence, only = np.zeros((1, POOLINGS, CLASSES), np.float32), np.zeros((len(prior.mean), CLASSES), np.float32)
    evidence[0, :, 0], only[:, 0] = probabilities, 1
    return replace(prior, weights=only).scores(evidence)[0]


def _out_of_fold(inputs: BuildInputs, seed: int, say: Progress, options: HeadOptions) -> OutOfFold:
    """Each fold leaves out a part of the photos and a part of the tags; what it says about the former is kept."""
    material, photos = inputs.material, inputs.photos
    counts = (material.states == PRESENT).sum(0)
    rows = np.flatnonzero(inputs.allowed & (counts >= HEAD_POSITIVES))
    rng = np.random.default_rng(seed)
    photo_fold, tag_fold = rng.permutation(len(photos)) % FOLDS, rng.permutation(len(rows)) % FOLDS
    component_logits = np.empty((3, len(photos), len(rows)), dtype=np.float32)
    seen = np.empty((len(photos), len(rows)), dtype=np.bool_)
    for fold in range(FOLDS):
        say(f"fold {fold + 1} of {FOLDS}")
        tags = inputs.allowed.copy()
        tags[rows[tag_fold == fold]] = False
        inside, outside = np.flatnonzero(photo_fold != fold), np.flatnonzero(photo_fold == fold)
        fitted = material.fit(inside, tags, options=options, seed=seed + 1 + fold, progress=say)
        component_logits[:, outside] = material.component_logits(fitted, material.views[0][outside], rows)
        seen[outside] = np.isin(rows, fitted.probe_rows)
    column = {int(row): at for at, row in enumerate(rows)}
    return OutOfFold(
        component_logits,
        seen,
        material.states[:, rows],
        rows,
        {name: np.array([photo.set_name == name for photo in photos]) for name in {photo.set_name for photo in photos}},
        {
            name: np.array([column[int(row)] for row in listed if int(row) in column], dtype=np.int64)
            for name, listed in inputs.listed.items()
        },
    )


def _rounded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the precision that ships, so that training sees what a bundle will."""
    return rows.astype(np.float16).astype(np.float32)
