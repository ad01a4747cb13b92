"""Fine-tuning loop: RandAugment, AdamW with cosine decay, accelerate, step checkpoints.

All randomness comes from the seed, the step and the image, so that a run that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import cos, pi
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import tokenize
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ram_backend.captions.writer import PROMPT
from ram_backend.errors import InputError, NotAvailable
from ram_backend.finetuning.recipe import Batch, FinetuningOptions, Recipe
from ram_backend.images.decode import decode
from ram_backend.models import bundle as bundles
from ram_backend.models.bundle import CAPTIONER, NETWORK, TRAINING_IMAGES, Bundle
from ram_backend.models.preprocessing import CLIP_MEAN, CLIP_STD
from ram_backend.models.starter.export import StarterModule, export_head
from ram_backend.models.starter.install import HEAD_WEIGHTS
from ram_backend.models.starter.network import HEAD, HEAD_QUERIES
from ram_backend.models.torch_network import fixed_precision, torch_device
from ram_backend.settings import Settings
from ram_backend.tagging.subset import Subset
from ram_backend.vocabulary.caption_parser import CaptionParser

LONGEST = 30
"""Words of a caption that are learned from."""
SAVED_EVERY = 120.0
"""Seconds from one checkpoint to the next."""
CHECKPOINT = "checkpoint.pt"
_NO_WORDS = re.compile(r'[.!"()*#:;~\s]+')


@dataclass(frozen=True)
class Examples:
    """N labelled images.

    Attributes:
        paths: their files.
        labels: (N, L).
        known: (N, L).
        captions: of each image, at least one; empty: there are none.
    """

    paths: Sequence[Path]
    labels: NDArray[np.bool_] = field(repr=False)
    known: NDArray[np.bool_] = field(repr=False)
    captions: Sequence[Sequence[str]] = ()


class _RandAugment(v2.RandAugment):  # type: ignore[misc]
    """Without the operations that change colours: colours are tags."""

    _AUGMENTATION_SPACE: ClassVar = {
        name: value
        for name, value in v2.RandAugment._AUGMENTATION_SPACE.items()
        if name not in ("Color", "Contrast", "Posterize", "Solarize")
    }


def augmentation(size: int, mean: Sequence[float], std: Sequence[float]) -> v2.Transform:
    """PIL image to pixels (3, size, size): crop, flip, RandAugment (arXiv 1909.13719)."""
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    twice = [v2.RandomApply([_RandAugment(1, magnitude=15)]) for _ in range(2)]
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *twice, *pixels])


class _Items(Dataset[dict[str, Any]]):
    """By (epoch, row): crops for network and CLIP, labels, a caption."""

    def __init__(self, bundle: Bundle, examples: Examples, clip: Any, seed: int, settings: Settings) -> None:
        given = bundle.preprocessing
        self.examples, self.seed = examples, seed
        self.crops = {"images": augmentation(given.size, given.mean, given.std)}
        if clip is not None:
            self.crops["clip"] = augmentation(clip.visual.image_size[0], CLIP_MEAN, CLIP_STD)
        self.reading: dict[str, Any] = {"exif_orientation": given.exif_orientation, "alpha": given.alpha}
        self.reading |= {"max_pixels": settings.max_image_pixels, "max_bytes": settings.max_image_bytes}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        row, rng = key[1], np.random.default_rng((self.seed, *key))
        image, _ = decode(self.examples.paths[row], **self.reading)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62)))
            item = {name: crop(image) for name, crop in self.crops.items()}
        item |= {name: getattr(self.examples, name)[row].astype(np.float32) for name in ("labels", "known")}
        if self.examples.captions:
            words = _NO_WORDS.sub(" ", str(rng.choice(self.examples.captions[row])).lower()).split()
            item["caption"] = " ".join(words[:LONGEST])
        return item


def finetune(
    bundle: Bundle,
    subset: Subset,
    examples: Examples,
    options: FinetuningOptions,
    settings: Settings,
    work: Path,
    *,
    clip: Any = None,
    progress: Callable[[int, int, dict[str, float]], object] = lambda *_: None,
) -> tuple[Recipe, bool]:
    """Trains on one device, or on one a process of torchrun or `accelerate launch`.

    Args:
        bundle: the base model.
        subset: L tags, those of the labels.
        examples: at least one.
        options: see there.
        settings: device, precision, threads, limits of images.
        work: folder of the checkpoint, from which the same run goes on.
        clip: open_clip's model, for distillation (RAM, RAM++) and alignment
            (RAM++ with captions); None: neither.
        progress: called with step, steps and the step's losses.

    Returns:
        What has learned, in evaluation mode, and whether this process is the
        one to write it.

    Raises:
        NotAvailable: accelerate is not installed.
        InputError: as `Recipe`; or the checkpoint is another run's.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise NotAvailable("Fine-tuning needs accelerate: pip install 'ram_backend[finetuning]'.") from None
    device = torch_device("cpu" if bundle.kind == "starter" else settings.device)
    precision = fixed_precision(settings.precision, device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=options.accumulate,
    )
    rank, processes = accelerator.process_index, accelerator.num_processes
    device = accelerator.device
    mean = partial(accelerator.reduce, reduction="mean")
    recipe = Recipe(bundle, subset, options, captions=bool(examples.captions), device=device, mean=mean).train()
    learning = {name: part for name, part in recipe.named_parameters() if part.requires_grad}
    optimizer: Any = torch.optim.AdamW(learning.values(), options.learning_rate, weight_decay=0.05)
    model, optimizer = accelerator.prepare(recipe, optimizer)
    clip = clip.to(device).eval() if clip is not None and bundle.kind in ("ram", "ram_plus") else None
    parser = CaptionParser(bundle.vocabulary) if recipe.captioner is not None else None
    steps = _steps(len(examples.paths), options, processes)
    identity = (bundle.digest, asdict(options), processes, subset.names, examples, clip is None)
    labels = np.stack([examples.labels, examples.known]).tobytes()
    run = hashlib.sha256(repr(identity).encode() + labels).hexdigest()
    file = work / CHECKPOINT
    start = _resumed(file, run, learning, optimizer)
    keys = [[(epoch, int(row)) for row in rows[rank]] for epoch, rows in steps[start:]]
    items = _Items(bundle, examples, clip, options.seed, settings)

    workers = min(8, (settings.cpu_threads() - 1) // processes)
    loader = DataLoader(items, batch_sampler=keys, num_workers=workers)
    saved = monotonic()
    with torch.random.fork_rng(devices=[]):
        for step, item in enumerate(loader, start=start + 1):
            torch.manual_seed((options.seed * len(steps) + step) * processes + rank)
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * (1 + cos(pi * steps[step - 1][0] / options.epochs)) / 2
            with accelerator.accumulate(model):
                losses = model(_batch(item, bundle, clip, parser, accelerator))
                accelerator.backward(losses["loss"])
                optimizer.step()
                optimizer.zero_grad()
            due = monotonic() >= saved + SAVED_EVERY and step % options.accumulate == 0
            if accelerator.is_main_process and (due or step == len(steps)):
                state = {"run": run, "step": step, "learning": learning, "optimizer": optimizer.state_dict()}
                work.mkdir(parents=True, exist_ok=True)
                torch.save(state, file.with_suffix(".partial"))
                file.with_suffix(".partial").replace(file)
                saved = monotonic()
            progress(step, len(steps), {name: float(value.detach()) for name, value in losses.items()})
    main = accelerator.is_main_process
    accelerator.end_training()
    return recipe.eval(), main


def _resumed(file: Path, run: str, learning: dict[str, Any], optimizer: Any) -> int:
    """Loads a run's checkpoint; returns its step, 0 where there is none."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise InputError(f"{file} is of a run with other labels or options: remove it, or use another --out.")
    for name, part in learning.items():
        part.data.copy_(state["learning"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def write_bundle(
    recipe: Recipe,
    base: Bundle,
    name: str,
    bundles_dir: Path,
    images: Iterable[str],
    evaluate: Callable[[Bundle], Any],
) -> Bundle:
    """Writes what has learned as a new bundle, whole or not at all.

    Args:
        recipe: from `finetune`.
        base: what it began as; all other files are its own.
        name: of the new bundle.
        bundles_dir: where bundles live.
        images: lines for `TRAINING_IMAGES`.
        evaluate: called with the bundle before it gets its name; the result
            goes into the manifest, as JSON.

    Raises:
        CheckpointError: as `new_bundle`.
    """
    manifest = {key: value for key, value in base.manifest.items() if key not in ("format", "name", "files")}
    with bundles.new_bundle(bundles_dir, name, manifest) as directory:
        if isinstance(recipe.network, StarterModule):
            export_head(recipe.network.head, directory / HEAD_QUERIES, directory / HEAD)
            save_file(recipe.network.head.state_dict(), directory / HEAD_WEIGHTS)
        else:
            save_file(recipe.network.state_dict(), directory / NETWORK)
        if recipe.captioner is not None:
            with safe_open(base.path / CAPTIONER, framework="pt") as file:
                names = list(file.keys())
            values = recipe.captioner.state_dict()
            save_file({key: values[key] for key in names}, directory / CAPTIONER)
        learned = {path.name: bundles.file_sha256(path) for path in directory.iterdir()}
        for file in base.manifest["files"].keys() - learned.keys():
            shutil.copyfile(base.path / file, directory / file)
        with (directory / TRAINING_IMAGES).open("a", encoding="utf-8") as lines:
            lines.writelines(f"{line}\n" for line in images)
        sources = {"base": base.digest, **learned}
        manifest["digest"] = bundles.bundle_digest(base.kind, manifest["architecture"], base.preprocessing, sources)
        origin: dict[str, Any] = {
            "sources": {"base": {"file": base.name, "sha256": base.digest}},
            "options": asdict(recipe.options),
        }
        origin["made"] = datetime.now(UTC).isoformat(timespec="seconds")
        manifest["provenance"] = manifest.get("provenance", {}) | origin
        made = replace(base, path=directory, name=name, digest=manifest["digest"], manifest=manifest)
        manifest["evaluation"] = evaluate(made)
    return bundles.open_bundle(bundles_dir / name)


@torch.no_grad()
def _batch(item: dict[str, Any], bundle: Bundle, clip: Any, parser: CaptionParser | None, accelerator: Any) -> Batch:
    """Items to a batch on the device, with CLIP's features and captions."""
    device, rank = accelerator.device, accelerator.process_index
    batch = Batch(*(item[name].to(device) for name in ("images", "labels", "known")))
    with accelerator.autocast():
        if clip is not None:
            batch = batch._replace(clip_features=clip.encode_image(item["clip"].to(device)))
        if clip is not None and bundle.kind == "ram_plus" and "caption" in item:
            texts = accelerator.gather(clip.encode_text(tokenize(item["caption"]).to(device), normalize=True))
            matches = torch.eye(len(texts), device=device).chunk(accelerator.num_processes)[rank]
            batch = batch._replace(texts=texts, matches=matches)
    if parser is not None:
        tags = [parser.parse(caption) for caption in item["caption"]]
        batch = batch._replace(captions=[PROMPT + each for each in item["caption"]], caption_tags=tags)
    return batch


def _steps(images: int, options: FinetuningOptions, processes: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Epoch and rows (processes, batch) of each step; the last one is filled."""
    together = processes * options.accumulate
    batch = min(options.batch, max(1, images // together))
    found = []
    for epoch in range(options.epochs):
        order = np.random.default_rng((options.seed, epoch)).permutation(images)
        whole = np.resize(order, -(-images // (batch * together)) * batch * together)
        found += [(epoch, rows) for rows in whole.reshape(-1, processes, batch)]
    return found
