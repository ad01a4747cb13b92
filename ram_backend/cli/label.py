"""`ram-backend label`: words and phrases of any kind, found and placed in photos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ram_backend.cli.contact_sheet import ContactSheet
from ram_backend.cli.opening import BundleOption, DeviceOption, OpenProject, open_project, open_tagger
from ram_backend.cli.output import JsonLines, notes, printable, progress
from ram_backend.cli.tag import Shown, found_files, is_there, tag_images, tagged
from ram_backend.cli.tag_files import BoxFile
from ram_backend.demo import photo_paths
from ram_backend.engine.phrases import calibrate_phrases, push_labels, schema_with
from ram_backend.errors import ImageError, InputError
from ram_backend.evaluation.readers import read_labels
from ram_backend.labelstudio.schema import LabelSchema, look_up
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import folder_of


def label(
    prompt: Annotated[str, typer.Option(help='Words and phrases, e.g. "hard hat; a person without a hard hat".')],
    images: Annotated[
        list[str] | None, typer.Argument(help="Image files, or folders that are searched for images.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Without IMAGES: label the tasks of this project.")] = None,
    bundle: BundleOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for a contact sheet to accept and reject.")
    ] = None,
    accepted: Annotated[Path | None, typer.Option(help="What the contact sheet gave: nothing else is written.")] = None,
    export: Annotated[
        list[str] | None, typer.Option(help="coco=FILE.json, yolo=FOLDER or voc=FOLDER; may be repeated.")
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="Write predictions into --project; upload IMAGES that it lacks.")
    ] = False,
    as_json: JsonLines = False,
    device: DeviceOption = None,
) -> None:
    """Label photos by words or phrases, with boxes, and masks where SAM is installed.

    A phrase that the vocabulary doesn't have is on where hardly any absent tag
    would score as high: see docs/regions.md. A photo that shows none of them
    gets none.
    """
    settings = load_settings(bundle=bundle, device=device)
    phrases = list(dict.fromkeys(each.strip() for each in prompt.split(";") if each.strip()))
    if not phrases:
        raise InputError("--prompt names nothing: give words or phrases with semicolons between them.")
    if ((project is None) == push) if images else project is None:
        raise InputError("Name photos, or a --project whose tasks they are; --push writes predictions into --project.")

    tasks, lacking = dict[Path, int](), 0
    if project is not None:
        opened = open_project(project)
        schema = schema_with(opened.api, phrases if push else ())
        if not images:
            tasks, lacking = _fetched(opened, schema)
    found = found_files(images, folder) if images else list(tasks)
    paths = _readable(found, settings)
    reviewed = () if accepted is None else read_labels(accepted, may_lack_tags=True).images
    kept = {each.file: each.positives for each in reviewed}
    files: list[BoxFile | ContactSheet] = [BoxFile(each, paths, phrases) for each in export or ()]

    tagger = open_tagger(settings, phrases)
    ordinary = tag_images(tagger, photo_paths(), settings)
    photos = [image for image in ordinary if not isinstance(image, ImageError)]
    tagger = calibrate_phrases(tagger, np.stack([image.tokens for image in photos]))
    if folder is not None:
        files.append(ContactSheet(folder, tagger, settings, resume=False))
    rows = []
    shown = Shown(None, None, given=False, as_json=as_json, regions=True, captions=None)
    try:
        for tags, image in tagged(tagger, paths, settings, shown):
            record = dict(tags)
            if accepted is not None:
                on = kept.get(printable(record["image"]), frozenset())
                record |= {key: [each for each in record[key] if each["tag"] in on] for key in ("tags", "regions")}
            for file in files:
                file.add(record, image)
            rows.append((image.path, image.size, record))
    finally:
        for file in files:
            file.close()
            notes.print(f"{len(rows)} of {len(found)} photos are in {file.path}.", markup=False)
    if push:
        push_labels(opened.api, schema, rows, tasks)
        typer.echo(f"{len(rows)} photos have predictions in project {project}.")
    if len(rows) < len(found) + lacking:
        raise typer.Exit(1)


def _readable(found: Sequence[Path], settings: Settings) -> list[Path]:
    """The files that can be opened; reports the others."""
    paths = [path for path in found if is_there(path, settings)]
    if not paths:
        raise InputError("None of these photos can be read: nothing is written.")
    return paths


def _fetched(opened: OpenProject, schema: LabelSchema) -> tuple[dict[Path, int], int]:
    """Files of images, each with its task; and the number of images that can't be had."""
    key = schema.tag_controls[0].image_key
    folder = opened.settings.photos_dir / folder_of(opened.key)
    asked = [ImageReference(task.id, look_up(task.data, key)) for task in opened.api.all_tasks()]
    threads = opened.settings.fetch_threads
    source = TaskImages(opened.api.label_studio, threads=threads)
    with closing(source), progress("Fetching the photos"):
        saved = source.save_all(asked, folder, lambda error: notes.print(f"skipped: {error}", markup=False))
    tasks = {path: each.task for each, path in zip(asked, saved, strict=True) if path is not None}
    if not tasks:
        raise InputError(f"Project {opened.key} has no task with a photo that can be fetched: import some.")
    return tasks, len(asked) - len(tasks)
