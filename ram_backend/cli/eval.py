"""`ram-backend eval`: bundles and versions on labelled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from ram_backend.cli.opening import DeviceOption, listed_tags, open_project, open_tagger
from ram_backend.cli.output import AsJson, check_folder_of, notes, out, print_json, print_rows, written_whole
from ram_backend.errors import InputError, TextEncoderUnavailable
from ram_backend.evaluation.evaluate import EvaluatedModel, evaluate
from ram_backend.evaluation.labels import TRAIN
from ram_backend.evaluation.leaks import TrainingImages, bundle_training_images
from ram_backend.evaluation.readers import read_labels
from ram_backend.evaluation.report import LEGEND, cell, html_report, overview
from ram_backend.models.network import tuned_network
from ram_backend.settings import Settings, load_settings
from ram_backend.tagging.tagger import Tagger
from ram_backend.versions.directory import open_version, version_path
from ram_backend.versions.records import BASE

COLUMNS = {
    "mAP": "mAP",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "micro_precision": "precision",
    "precision_at_5": "P@5",
    "ece": "ECE",
    "edits_per_image": "edits",
}
"""Figures in the table, and their headings."""


def eval_(
    labels: Annotated[list[Path], typer.Option(help="Labels; repeat it, and --images, for several sets.")],
    images: Annotated[list[Path], typer.Option(help="Folder of the images of these labels.")],
    split: Annotated[str | None, typer.Option(help="Only images of this split (default: all).")] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="Bundle (default: RAM_BUNDLE); repeat it to compare.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Project whose versions to evaluate.")] = None,
    version: Annotated[
        list[str] | None, typer.Option(help='Such as v0003, or "base"; default: what is served.')
    ] = None,
    tags: Annotated[Path | None, typer.Option(help="File of tags, one a line (default: those of the labels).")] = None,
    keep_leaks: Annotated[bool, typer.Option(help="Count images that a model has learned from.")] = False,
    baselines: Annotated[
        bool, typer.Option(help="Also CLIP, ML-Decoder, linear probe, ConSE and untrained prior.")
    ] = False,
    as_json: AsJson = False,
    report: Annotated[Path | None, typer.Option("--out", help="Report to write: .html, or .json.")] = None,
    device: DeviceOption = None,
) -> None:
    """Measure bundles and versions on labelled images.

    Labels are JSON lines, RAM's benchmark files, COCO instances, OpenImages
    CSV, or a folder of VOC or YOLO. Images that a model has learned from are
    reported and left out for all.
    """
    if len(labels) != len(images):
        raise InputError(f"{len(labels)} times --labels, and {len(images)} times --images: give one for each.")
    if version and project is None:
        raise InputError("--version needs --project: name the project whose version it is.")
    if report is not None:
        check_folder_of(report)

    requested = listed_tags(None, tags)
    sets = list[dict[str, Any]]()
    settings = load_settings(device=device)
    for file, folder in zip(labels, images, strict=True):
        whole = read_labels(file)
        labelled = whole if split is None else whole.of_split(split)
        names = requested or list(labelled.tags)
        bundles = bundle or ([] if project else [settings.bundle])
        candidates = [_bundle(name, names, settings) for name in bundles]
        candidates += _versions(project, version, names, settings) if project else []
        with Progress(console=notes, transient=True) as bar:
            task = bar.add_task(labelled.name, total=len(labelled.images) * len(candidates))
            training = whole.of_split(TRAIN) if baselines and split not in (None, TRAIN) else None
            found = evaluate(
                labelled,
                folder,
                names,
                candidates,
                settings,
                keep_leaks=keep_leaks,
                with_baselines=baselines,
                training=training,
                progress=partial(bar.advance, task),
            )
            sets.append(found)
        _print_notes(sets[-1])
    if report is not None:
        in_html = report.suffix.lower() == ".html"
        text = html_report(sets) if in_html else "".join(f"{json.dumps(each)}\n" for each in sets)
        with written_whole(report) as written:
            written.write(text.encode())
    if as_json:
        print_json(*sets)
        return
    for each in sets:
        out.print(f"{each['set']}: {each['images']} images, {each['tags']} tags", markup=False)
        rows = [table_row(each, model) for model in each["models"]]
        print_rows(("model", *COLUMNS.values(), "mAP - first"), rows)
    if len(sets) > 1:
        print_rows(("mAP", *(each["set"] for each in sets)), overview(sets))
    out.print(LEGEND, style="dim", markup=False)


def _bundle(name: str, tags: Sequence[str], settings: Settings) -> EvaluatedModel:
    try:
        tagger = open_tagger(settings.model_copy(update={"bundle": name}), tags)
    except TextEncoderUnavailable as error:
        return EvaluatedModel(name, None, note=str(error))
    return EvaluatedModel(name, tagger, bundle_training_images(tagger.bundle))


def _versions(project: str, names: list[str] | None, tags: Sequence[str], settings: Settings) -> list[EvaluatedModel]:
    """Versions of a project, by default the served one."""
    from ram_backend.worker.training_set import read_folds

    opened = open_project(project)
    key, table = opened.key, opened.jobs.versions
    images = list(opened.jobs.ledger.images(key).values())
    base, found = _bundle(settings.bundle, tags, settings), []
    for name in names or [table.served(key).name]:
        if name == BASE or base.tagger is None:
            found.append(replace(base, name=f"{project} {name}"))
            continue
        bundle, subset = base.tagger.bundle, base.tagger.subset
        path = version_path(settings.versions_dir, key, name)
        version = open_version(path, bundle, key=key, digest=table.get(key, name).digest)
        network = tuned_network(base.tagger.network, version.files)
        tagger = Tagger(bundle, network, subset, delta=version.delta, version=version.digest)
        folds, seen = read_folds(version.files, version.delta.tags, [sha256 for sha256, _ in images])
        rows = zip(images, seen, strict=True)  # all where a version doesn't say
        learned = {each for each, used in rows if used or not folds} | (
            base.training.hashes if base.training else set()
        )
        found.append(EvaluatedModel(f"{project} {name}", tagger, TrainingImages(frozenset(learned))))
    return found


def table_row(found: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """A model's row of the table: name, `COLUMNS`, difference to the first model."""
    wanted = (model["name"], "mAP")
    pairs = [each for each in found["comparisons"] if (each["model"], each["figure"]) == wanted]
    known = (each for each in pairs if each["difference"] is not None)
    against = next((f"{each['difference']:+.3f} (p {each['p_value']:.3f})" for each in known), "")
    cells = {key: "" if model.get(key) is None else f"{model[key]:.3f}" for key in COLUMNS}
    cells["mAP"] = cell(model)
    return [model["name"], *cells.values(), against]


def _print_notes(found: dict[str, Any]) -> None:
    """What was left out, and why, on standard error."""
    name, leaks, missing = found["set"], found["leaks"], found["missing"]
    if leaks:
        fate = "left out" if found["leaks_excluded"] else "counted nevertheless"
        listed = "; ".join(f"{each['file']} ({each['kind']}, {', '.join(each['models'])})" for each in leaks[:5])
        notes.print(f"{name}: {len(leaks)} images that a model has learned from are {fate}: {listed}", markup=False)
    if missing:
        notes.print(f"{name}: {len(missing)} files can't be read; the first: {missing[0]}", markup=False)
    for model in found["models"]:
        if model["note"]:
            notes.print(f"{model['name']}: {model['note']}", markup=False)
    if found["training_unknown"]:
        models = ", ".join(found["training_unknown"])
        notes.print(f"{name}: not known which images {models} learned from: leaks can't be seen.", markup=False)
