"""Small bundles, pictures that show their tags by colour, and a small CLIP with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import tiny
from PIL import Image

from ram_backend.finetuning.loop import Examples, finetune
from ram_backend.finetuning.recipe import FinetuningOptions
from ram_backend.models.bundle import Bundle, open_bundle
from ram_backend.settings import load_settings
from ram_backend.tagging.subset import whole_vocabulary

QUICK: dict[str, Any] = {"epochs": 5, "batch": 4, "learning_rate": 1e-3, "dropout": 0.0, "checkpointing": False}
Losses = list[dict[str, float]]
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def options(**changed: Any) -> FinetuningOptions:
    return FinetuningOptions(**{**QUICK, **changed})


def import_bundle(folder: Path, kind: str) -> Bundle:
    """The small bundle of a kind, with a captioner where there is one; once."""
    if not (folder / "bundles" / kind).exists():
        state = tiny.state_dict(kind) if kind == "ram_plus" else tiny.captioning_state(kind)
        tiny.imported(folder / kind, kind, state, bundles_dir=folder / "bundles")
    return open_bundle(folder / "bundles" / kind)


def pictures(folder: Path, images: int = 24) -> list[Path]:
    """Noise of one of three colours."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:02d}.png" for number in range(images)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).normal(0, 25, (48, 48, 3))
        Image.fromarray((noise + COLOURS[number % 3]).clip(0, 255).astype(np.uint8)).save(path)
    return paths


def examples(folder: Path, *, captions: bool = False) -> Examples:
    paths = pictures(folder)
    labels = np.zeros((len(paths), len(tiny.TAGS)), dtype=np.bool_)
    labels[np.arange(len(paths)), np.arange(len(paths)) % 3] = True
    texts = [[f"A {tiny.TAGS[number % 3]}!"] for number in range(len(paths))]
    return Examples(paths, labels, np.ones_like(labels), texts if captions else ())


def clip() -> torch.nn.Module:
    """open_clip's CLIP with features as wide as the small bundle's tokens."""
    from open_clip.model import CLIP

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIP(tiny.WIDTH, vision, text)


class Stopped(Exception):
    """A run was killed."""


def run(
    folder: Path,
    kind: str,
    work: Path,
    options: FinetuningOptions,
    *,
    captions: bool = False,
    clip: Any = None,
    stop: int = 0,
) -> tuple[dict[str, torch.Tensor], Losses]:
    """What has learned, and the losses of each step; killed after a step where that is asked for."""
    bundle, losses = import_bundle(folder, kind), Losses()

    def progress(step: int, steps: int, found: dict[str, float]) -> None:
        losses.append(found)
        if step == stop:
            raise Stopped

    given, settings = examples(folder / "images", captions=captions), load_settings(device="cpu", threads=1)
    subset = whole_vocabulary(bundle)
    recipe, _ = finetune(bundle, subset, given, options, settings, work, clip=clip, progress=progress)
    return dict(recipe.named_parameters()), losses
