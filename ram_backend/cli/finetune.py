"""`ram-backend finetune`: a new bundle from labelled images, with RAM's own recipe."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ram_backend.cli.eval import COLUMNS, TRAIN, table_row
from ram_backend.cli.opening import BundleOption, DeviceOption, open_tagger
from ram_backend.cli.output import notes, out, print_rows, progress
from ram_backend.errors import ImageError, InputError
from ram_backend.evaluation.evaluate import Candidate, evaluate
from ram_backend.evaluation.labels import LabelSet
from ram_backend.evaluation.leaks import bundle_training_images
from ram_backend.evaluation.readers import read_labels
from ram_backend.models.bundle import Bundle, check_new_name
from ram_backend.models.network import load_network
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.tagger import Tagger

if TYPE_CHECKING:
    from ram_backend.finetuning.loop import Examples

Train = StrEnum("Train", {"head": "head", "projection": "projection", "last_stage": "last-stage", "all": "all"})


def finetune(
    name: Annotated[str, typer.Option("--out", help="Name of the new bundle.")],
    labels: Annotated[Path, typer.Option(help="Labelled images, in a format that `eval` reads.")],
    images: Annotated[Path, typer.Option(help="Folder of the images of these labels.")],
    bundle: BundleOption = None,
    train: Annotated[Train | None, typer.Option(help="What learns (default: all; of the starter: head).")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times that each image is seen.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time, on each GPU.")] = 26,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches in a step of the optimizer.")] = 1,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the first epoch; falls as a cosine.")] = 5e-6,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations twice, to need less memory.")] = True,
    clip: Annotated[bool, typer.Option(help="Distillation from CLIP (RAM and RAM++).")] = True,
    device: DeviceOption = None,
) -> None:
    """Train encoder and tagging head on labelled images: a new bundle.

    Learned from are images of split `train`, or without a split; all others, or
    one in ten, are left out and measured. Begun again after it was stopped, the
    command goes on.
    """
    from ram_backend.finetuning.loop import finetune as run
    from ram_backend.finetuning.loop import write_bundle
    from ram_backend.finetuning.recipe import FinetuningOptions
    from ram_backend.vocabulary.clip_text import load_clip

    settings = load_settings(bundle=bundle, device=device)
    check_new_name(settings.bundles_dir, name)
    work = settings.data_dir / "finetuning" / name
    found = read_labels(labels)
    learned, left_out = _parts(found)
    tags = list(dict.fromkeys(found.tags))
    tagger = open_tagger(settings.model_copy(update={"device": "cpu", "precision": "fp32"}), tags)
    base, subset, threads = tagger.bundle, tagger.subset, settings.cpu_threads()
    examples, hashes = _examples(learned, images, tags, base, settings)
    part: Any = (train or (Train.head if base.kind == "starter" else Train.all)).value
    options = FinetuningOptions(part, epochs, batch, accumulate, learning_rate, checkpointing=checkpointing)
    model = load_clip(settings.clip_weights) if clip and base.kind in ("ram", "ram_plus") else None
    with progress("Training") as show:

        def step(at: int, steps: int, losses: dict[str, float]) -> None:
            if os.environ.get("RANK", "0") == "0":
                show(f"step {at} of {steps}: " + ", ".join(f"{key} {value:.4g}" for key, value in losses.items()))

        recipe, writes = run(base, subset, examples, options, settings, work, clip=model, progress=step)

    def measure(made: Bundle) -> dict[str, Any]:
        options: Any = {"device": settings.device, "precision": settings.precision, "threads": threads}
        taggers = [Tagger(each, load_network(each, **options), subset) for each in (base, made)]
        models = [Candidate(each.bundle.name, each, bundle_training_images(each.bundle)) for each in taggers]
        try:
            return evaluate(left_out, images, tags, models, settings)
        except InputError as error:  # no reason to lose what has learned
            return {"images": 0, "models": [], "comparisons": [], "note": str(error)}

    if writes:
        made = write_bundle(recipe, base, name, settings.bundles_dir, hashes, measure)
        shutil.rmtree(work)
        result = made.manifest["evaluation"]
        if "note" in result:
            notes.print(result["note"], markup=False)
        out.print(f"{result['images']} images that were left out, {len(tags)} tags", markup=False)
        print_rows(("model", *COLUMNS.values(), "mAP - first"), [table_row(result, each) for each in result["models"]])
        typer.echo(f"Bundle {name} is ready at {made.path}. Next: ram-backend tag PHOTO --bundle {name}")


def _parts(found: LabelSet) -> tuple[LabelSet, LabelSet]:
    """The images to learn from, and those that are left out: by their split, else one in ten by lot."""
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
    learned: LabelSet, folder: Path, tags: list[str], base: Bundle, settings: Settings
) -> tuple[Examples, list[str]]:
    """What can be read of the images to learn from, and its lines for the new bundle's list of training images."""
    from ram_backend.finetuning.loop import Examples

    threads, hashes, errors = settings.cpu_threads(), dict[int, str](), list[ImageError]()
    loader = open_image_loader(settings, base.preprocessing, "", cached=False, decoders=threads, hashed=True)
    paths = [folder / image.file for image in learned.images]
    with progress("Reading the images"):
        loaded = (each for part in loader.batches(paths, settings.batch_size, threads=threads) for each in part)
        for row, (_, image) in enumerate(loaded):
            if isinstance(image, ImageError):
                errors.append(image)
            else:
                hashes[row] = f"{image.sha256} {image.phash:016x}"
    if errors:
        notes.print(f"{len(errors)} files can't be read; the first: {errors[0]}", markup=False)
    if not hashes:
        raise InputError(f"{learned.name}: none of the images to learn from can be read: check --images.")
    rows = list(hashes)
    captions = [learned.images[row].captions for row in rows]
    if any(captions) and not all(captions):
        raise InputError(f"{learned.name}: some images have captions and others don't: give all of them one, or none.")
    right, known = (matrix[rows] for matrix in learned.matrices(tags))
    return Examples([paths[row] for row in rows], right, known, captions if any(captions) else ()), list(
        hashes.values()
    )
