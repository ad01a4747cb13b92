"""`ram-backend engine`: labels that are probably wrong, tags that are probably missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ram_backend.cli.opening import BundleOption, DeviceOption, OpenProject, open_project, open_tagger
from ram_backend.cli.output import notes, progress
from ram_backend.engine.findings import Finding
from ram_backend.engine.review import ORDER, push_review
from ram_backend.engine.run import EngineInput, run_engine
from ram_backend.errors import ImageError, InputError
from ram_backend.evaluation.labels import LabelledImage
from ram_backend.evaluation.readers import read_labels
from ram_backend.images.decode import read_file
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.task_images import TaskImages
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.versions.directory import engine_folder
from ram_backend.vocabulary.caption_parser import CaptionParser
from ram_backend.vocabulary.tags import Tag, Vocabulary
from ram_backend.worker.engine import project_images

REASON = "asked for on the command line"

app = typer.Typer(help="Clean labels and complete them: the data engine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def run(
    project: Annotated[str | None, typer.Argument(metavar="PROJECT", help="Corrections of this project.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labelled images instead, in a format that `eval` reads."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that the files of --labels are in.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; a run that was killed goes on there.")] = Path("engine"),
    push: Annotated[bool, typer.Option("--push", help="Put the findings into the project's review queue.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Leave it to this many workers, and return at once.")] = 0,
    bundle: BundleOption = None,
    device: DeviceOption = None,
) -> None:
    """Find labels that are probably wrong and tags that are probably missing; no label is changed.

    --out gets report.html, findings.jsonl, labels.jsonl and summary.json. With
    --workers these are in the data folder, and on the admin's page.
    """
    settings = load_settings(bundle=bundle, device=device)
    if labels is not None and images is not None and project is None:
        _run(settings, _of_file(labels, images, settings), out)
    elif project is not None and labels is None and images is None:
        opened = open_project(project)
        if workers:
            requests = (opened.jobs.table.request(opened.key, "engine", REASON, share=each) for each in range(workers))
            queued = ", ".join(request.job.short for request in requests)
            typer.echo(f"Queued as {queued}; `ram-backend jobs` shows how far it is.")
            folder = engine_folder(opened.settings.versions_dir, opened.key)
            typer.echo(f"Afterwards: ram-backend engine run {opened.key.id} --push --out {folder}")
            return
        with closing(TaskImages(opened.api.label_studio)) as source:
            given = project_images(opened.project, opened.jobs.ledger, source)
            findings = _run(settings, given, out)
        if push:
            _push(opened, given, findings)
    else:
        raise InputError("Give a project, or --labels with --images.")


def _push(opened: OpenProject, images: EngineInput, findings: Sequence[Finding]) -> None:
    tasks = [int(name) for name in images.names]
    of_task = [replace(each, number=tasks[each.number]) for each in findings]
    tags_of = {
        task: {images.tags[column] for column in np.flatnonzero(on)}
        for task, on in zip(tasks, images.labels & images.known, strict=True)
    }
    schema = parse_label_config(opened.project.label_config)
    pushed = push_review(opened.api, schema, of_task, tags_of, lambda *_: None)
    typer.echo(f"{pushed} tasks are in the review queue: sort by {ORDER} in Label Studio's Data Manager.")


def _run(settings: Settings, images: EngineInput, out: Path) -> list[Finding]:
    tagger = open_tagger(settings, list(images.tags))
    tagger = Tagger(tagger.bundle, tagger.network, tagger.subset, token_dtype=TOKEN_DTYPE)
    loader = open_image_loader(settings, tagger.bundle.preprocessing, tagger.network.encoder_id)
    limits = (settings.max_image_pixels, settings.max_image_bytes)
    with progress("Looking at the images") as show:
        result = run_engine(out, images, tagger, loader, limits=limits, progress=show)
    for error in result.summary["unreadable"][:5]:
        notes.print(f"skipped: {error}", markup=False)
    typer.echo(f"{result.message} See {out / 'report.html'}.")
    return result.findings


def _of_file(labels: Path, images: Path, settings: Settings) -> EngineInput:
    found = read_labels(labels)
    tags = tuple(dict.fromkeys(found.tags))

    def load(numbers: Sequence[int]) -> Iterator[bytes | Exception]:
        for number in numbers:
            path = images / found.images[number].file
            try:
                yield read_file(path, settings.max_image_bytes, str(path))
            except ImageError as error:
                yield error

    captions = _named_by_captions(found.images, tags) if any(image.captions for image in found.images) else None
    times = sum(path.stat().st_mtime_ns for image in found.images if (path := images / image.file).is_file())
    extra = [{"split": image.split, "captions": image.captions} for image in found.images]
    names, source = [image.file for image in found.images], f"{images.resolve()} {times}"
    return EngineInput(names, tags, *found.matrices(tags), load, captions, source, extra)


def _named_by_captions(images: Sequence[LabelledImage], tags: Sequence[str]) -> NDArray[np.float32]:
    """Share (N, L) of an image's captions that name the tag; the mean where an image has none."""
    parser = CaptionParser(Vocabulary(map(Tag, tags)))
    named = np.full((len(images), len(tags)), np.nan, dtype=np.float32)
    for row, image in enumerate(images):
        if image.captions:
            named[row] = 0
        for caption in image.captions:
            named[row, parser.rows(caption)] += 1 / len(image.captions)
    return np.where(np.isnan(named), np.nanmean(named, axis=0), named)
