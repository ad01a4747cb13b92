"""`ram-backend finetune`: a new bundle from labelled images, by RAM's recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ram_backend.cli.eval import COLUMNS, table_row
from ram_backend.cli.opening import BundleOption, DeviceOption, open_project
from ram_backend.cli.output import notes, out, print_rows, progress
from ram_backend.errors import InputError
from ram_backend.evaluation.readers import read_labels
from ram_backend.jobs.job import JobOptions
from ram_backend.models.bundle import check_new_name
from ram_backend.settings import load_settings

Train = StrEnum("Train", {"head": "head", "projection": "projection", "last_stage": "last-stage", "all": "all"})


def finetune(
    name: Annotated[str, typer.Option("--out", help="Name of the new bundle.")],
    labels: Annotated[Path | None, typer.Option(help="Labelled images, in a format that `eval` reads.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images of these labels.")] = None,
    project: Annotated[str | None, typer.Option(help="Learn from the corrections of this project instead.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Let a worker do it (with --project), and return.")] = False,
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
    settings = load_settings(bundle=bundle, device=device)
    rank = os.environ.get("RANK")
    check_new_name(settings.bundles_dir, name)
    wanted: dict[str, Any] = {
        "name": name,
        "part": train and train.value,
        "clip": clip,
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "checkpointing": checkpointing,
    }
    from_files = labels and images and not (project or queue)
    from_project = project and not (labels or images or rank)
    if not (from_files or from_project):
        raise InputError("Give --labels with --images, or a --project (and --queue); with torchrun give --labels.")

    opened = open_project(project) if project else None
    if opened is not None and queue:
        table = opened.jobs.table
        if any(job.is_open for job in table.jobs(opened.key, kind="finetune", limit=1)):
            raise InputError(f"Project {opened.key} has an open fine-tuning already: see `ram-backend jobs {project}`.")
        options = JobOptions(bundle=settings.bundle, finetuning=wanted)
        job = table.request(opened.key, "finetune", "asked for on the command line", options).job
        typer.echo(f"Fine-tuning of project {opened.key} is queued as job {job.short}; `ram-backend jobs` shows it.")
        return

    from ram_backend.finetuning.run import make_bundle
    from ram_backend.worker.finetune import project_labels

    with progress("Loading") as show:

        def step(stage: str, at: int = 0, steps: int = 0, losses: Mapping[str, float] | None = None) -> None:
            if rank in (None, "0"):
                parts = ", ".join(f"{key} {value:.4g}" for key, value in (losses or {}).items())
                show(f"{stage} {parts}".strip(), at, steps)

        note = partial(notes.print, markup=False)
        if labels is not None and images is not None:
            found, folder = read_labels(labels), images
        elif opened is not None:
            studio = opened.api.label_studio
            found, folder = project_labels(opened.project, studio, opened.jobs.ledger, settings, step, note)
        made = make_bundle(found, folder, settings, wanted, step, note)

    if made is not None:
        result = made.manifest["evaluation"]
        out.print(f"{result['images']} images that were left out, {len(set(found.tags))} tags", markup=False)
        rows = [table_row(result, each) for each in result["models"]]
        print_rows(("model", *COLUMNS.values(), "mAP - first"), rows)
        typer.echo(f"Bundle {name} is ready at {made.path}. Next: ram-backend tag PHOTO --bundle {name}")
