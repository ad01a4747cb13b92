"""Fine-tuning from a labelled set to a bundle, measured on left-out images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ram_backend.errors import ImageError, InputError, listed
from ram_backend.evaluation.evaluate import EvaluatedModel, evaluate
from ram_backend.evaluation.labels import TRAIN, LabelSet
from ram_backend.evaluation.leaks import bundle_training_images
from ram_backend.finetuning.loop import Examples, finetune, write_bundle
from ram_backend.finetuning.recipe import FinetuningOptions
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import load_network
from ram_backend.models.registry import find_bundle
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.subset import open_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.clip_text import load_clip

Progress = Callable[..., None]
"""Called with a stage, and perhaps step, steps, and the step's losses."""
Note = Callable[[str], object]
"""Called with a sentence for people."""


def make_bundle(
    labels: LabelSet, images: Path, settings: Settings, wanted: Mapping[str, Any], progress: Progress, note: Note
) -> Bundle | None:
    """Fine-tunes a bundle, or goes on with it; measures it and its base.

    Args:
        labels: images of split `train` or none are learned from. All others, or
            one in ten, are measured.
        images: folder of their files.
        settings: base bundle, device, precision, threads.
        wanted: `name` of the new bundle; `part`, None: all, or of the starter
            the head; `clip`, whether to distil from it; and other fields of
            `FinetuningOptions`.
        progress: called with stage, step and steps, and with the step's losses.
        note: called with what was left out or is unusual.

    Returns:
        The bundle, figures in its manifest's `evaluation`; None in all processes
        of several but the first.

    Raises:
        InputError: nothing can be learned from these images, or by this bundle.
        NotAvailable: accelerate or the bundle is not installed.
    """
    options = dict(wanted)
    name, part, clip = options.pop("name"), options.pop("part"), options.pop("clip")
    work = settings.data_dir / "finetuning" / name
    tags = list(dict.fromkeys(labels.tags))
    learned, left_out = _parts(labels)
    progress("load the model", 0, 0)
    base = find_bundle(settings.bundle, settings.bundles_dir)
    subset = open_subset(base, tags, settings)
    if subset.new_tags:
        note(f"Not looked up in the vocabulary of {base.name} but learned from text: {listed(subset.new_tags, 8)}.")
    examples, hashes = _examples(learned, images, tags, base, settings, progress, note)
    chosen = FinetuningOptions(part or ("head" if base.kind == "starter" else "all"), **options)
    model = load_clip(settings.clip_weights) if clip and base.kind in ("ram", "ram_plus") else None

    def step(at: int, steps: int, losses: dict[str, float]) -> None:
        progress("train", at, steps, losses)

    recipe, writes = finetune(base, subset, examples, chosen, settings, work, clip=model, progress=step)

    def measure(made: Bundle) -> dict[str, Any]:
        progress("measure", 0, 0)
        device, threads = settings.device, settings.cpu_threads()
        models = []
        for bundle in (base, made):
            network = load_network(bundle, device=device, precision=settings.precision, threads=threads)
            tagger = Tagger(bundle, network, subset)
            models.append(EvaluatedModel(bundle.name, tagger, bundle_training_images(bundle)))
        try:
            return evaluate(left_out, images, tags, models, settings)
        except InputError as error:  # no reason to lose what has learned
            note(str(error))
            return {"images": 0, "models": [], "comparisons": []}

    if not writes:
        return None
    made = write_bundle(recipe, base, name, settings.bundles_dir, hashes, measure)
    shutil.rmtree(work)
    return made


def _parts(found: LabelSet) -> tuple[LabelSet, LabelSet]:
    """Images to learn from and those left out: by split, else one in ten by lot."""
    learned = [image for image in found.images if image.split in (None, TRAIN)]
    left_out = [image for image in found.images if image.split not in (None, TRAIN)]
    if not left_out:
        order = [learned[at] for at in np.random.default_rng(0).permutation(len(learned))]
        cut = max(1, len(order) // 10)
        learned, left_out = order[cut:], order[:cut]
    if not learned:
        raise InputError(f"{found.name}: no image to learn from: give some of split {TRAIN!r}, or without a split.")
    return replace(found, images=tuple(learned)), replace(found, images=tuple(left_out))


def _examples(
    learned: LabelSet, folder: Path, tags: list[str], base: Bundle, settings: Settings, progress: Progress, note: Note
) -> tuple[Examples, list[str]]:
    """What can be read of the images, and lines for the list of training images."""
    threads = settings.cpu_threads()
    hashes, errors = dict[int, str](), list[ImageError]()
    loader = open_image_loader(settings, base.preprocessing, "", cached=False, decoders=threads, hashed=True)
    paths = [folder / image.file for image in learned.images]
    loaded = loader.batches(paths, settings.batch_size, threads=threads)
    for row, (_, image) in enumerate(chain.from_iterable(loaded)):
        progress("read the images", row, len(paths))
        if isinstance(image, ImageError):
            errors.append(image)
        else:
            hashes[row] = f"{image.sha256} {image.phash:016x}"
    if errors:
        note(f"{len(errors)} files can't be read; the first: {errors[0]}")
    if not hashes:
        raise InputError(f"{learned.name}: none of the images to learn from can be read: check --images.")
    rows = list(hashes)
    captions = [learned.images[row].captions for row in rows]
    if any(captions) and not all(captions):
        raise InputError(f"{learned.name}: some images have captions and others don't: give all one, or none.")
    right, known = (matrix[rows] for matrix in learned.matrices(tags))
    examples = Examples([paths[row] for row in rows], right, known, captions if any(captions) else ())
    return examples, list(hashes.values())
