"""`ram-backend corrections`: list, count and export the ledger of corrections."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ram_backend.cli.opening import OpenProject, ProjectArgument, open_project
from ram_backend.cli.output import AsJson, JsonLines, check_folder_of, print_json, print_rows, written_whole
from ram_backend.console.report import html_report, project_report, share
from ram_backend.console.statistics import agreement_of, edits_by_day
from ram_backend.errors import InputError
from ram_backend.feedback.corrections import CaptionCorrection, caption_corrections, corrections_of, merge_corrections
from ram_backend.feedback.events import CurrentAnnotation
from ram_backend.feedback.labels import ImageLabels, LabelState, count_tags
from ram_backend.feedback.reconcile import reconcile
from ram_backend.labelstudio.label_config import parse_label_config

app = typer.Typer(help="What people said about tags: list, stats, export, reconcile.", no_args_is_help=True)

_STATES: tuple[LabelState, ...] = ("confirmed", "added", "removed")


@app.command("list")
def list_(
    project: ProjectArgument,
    task: Annotated[int | None, typer.Option(help="Only those of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the latest.")] = 50,
    as_json: JsonLines = False,
) -> None:
    """List annotations, latest first, with what each says about the tags that were shown."""
    opened = open_project(project)
    everything, said, _ = _read(opened)

    annotations = [each for each in everything if task in (None, each.parsed.task)]
    annotations.sort(key=lambda each: (each.parsed.updated_us, each.parsed.id), reverse=True)
    corrections: dict[int, list[ImageLabels]] = defaultdict(list)
    for correction in said:
        corrections[correction.annotation_ids[0]].append(correction)
    facts = [_facts(each, corrections[each.parsed.id]) for each in annotations[:limit]]
    if as_json:
        print_json(*facts)
        return
    if not facts:
        typer.echo(f"No corrections of project {opened.key.id}.")
        return
    rows = []
    for row in facts:
        counts = [str(len(row[state])) if row["usable"] else "-" for state in _STATES]
        when = (row["when"] or "?")[:16].replace("T", " ")
        origin = "; ".join(part for part in (row["note"], row["model_version"]) if part) or "-"
        rows.append([str(row["task"]), str(row["annotator"] or "?"), when, *counts, origin])
    print_rows(("task", "annotator", "when", *_STATES, "started from"), rows)
    if len(annotations) > len(facts):
        typer.echo(f"{len(annotations) - len(facts)} more: --limit {len(annotations)}.")


@app.command()
def stats(
    project: ProjectArgument,
    top: Annotated[int | None, typer.Option(min=1, help="Only the tags with the most statements.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count what was confirmed, added and removed, per tag and in all.

    Edits are removed ticks and added tags, by day, beside what an empty form
    would have taken. "right" is how often a shown tag was left on, "found" how often a tag that
    is there had been shown.
    """
    opened = open_project(project)
    annotations, corrections, _ = _read(opened)
    labels = merge_corrections(corrections)
    states = Counter(label.state for each in corrections for label in each.states.values())
    totals: dict[str, Any] = {
        "project": str(opened.key),
        "annotations": len(annotations),
        "usable": sum(each.parsed.usable for each in annotations),
        "skipped": sum(each.parsed.was_cancelled for each in annotations),
        "nobody_looked": sum(each.parsed.auto_created for each in annotations),
        "tasks": len({each.task_id for each in labels}),
        "ground_truth_tasks": len({each.task_id for each in labels if each.ground_truth}),
        "tasks_of_several_annotators": len({each.task_id for each in labels if len(each.annotation_ids) > 1}),
        "agreement": agreement_of(corrections),
        **{state: states[state] for state in _STATES},
        "changed_since_last_training": opened.jobs.new_corrections(opened.key)[opened.key].changed,
    }
    rows = []
    for tag in count_tags(corrections)[:top]:
        rows.append({**asdict(tag), "right": tag.precision, "found": tag.recall})
    by_day = {str(day): found for day, found in edits_by_day(annotations, corrections).items()}
    if as_json:
        print_json({**totals, "edits": by_day, "tags": rows}, indent=1)
        return
    totals["agreement"] = share(totals["agreement"]) or "-"
    for name, value in totals.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
    if by_day:
        per_photo = []
        for day, row in by_day.items():
            edits, tags = (f"{row[name] / row['photos']:.2f}" for name in ("edits", "tags"))
            per_photo.append([day, str(row["photos"]), edits, tags, share(row["saved"]) or "-"])
        print_rows(("day", "photos", "edits per photo", "in an empty form", "saved"), per_photo)
    if rows:
        columns = ("tag", *_STATES, "right", "found")
        shares = [row | {name: share(row[name]) or "-" for name in columns[-2:]} for row in rows]
        print_rows(columns, [[str(row[name]) for name in columns] for row in shares])


@app.command()
def export(
    project: ProjectArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: standard output.")
    ] = None,
    untouched: Annotated[bool, typer.Option("--untouched", help="With the tags that nobody touched.")] = False,
) -> None:
    """Write what is known about each image, one JSON object a line: tags with label, weight and state, captions."""
    _, corrections, texts = _read(open_project(project))
    rows = [_exported(each, untouched) for each in merge_corrections(corrections)]
    captions: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for each in texts:
        captions[each.task_id, each.to_name].append({**asdict(each), "state": each.state})
    for row in rows:
        if said := captions.get((row["task"], row["image"])):
            row["captions"] = said
    if output is None:
        print_json(*rows)
        return
    with written_whole(output) as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)
    typer.echo(f"{len(rows)} images written to {output}.")


@app.command("reconcile")
def reconcile_(project: ProjectArgument, as_json: AsJson = False) -> None:
    """Ask Label Studio for all annotations, and add to the ledger what its events did not bring."""
    opened = open_project(project)
    found = reconcile(opened.jobs.ledger, opened.key, opened.api)
    if as_json:
        counts = ("listed", "added", "gone", "returned", "shown", "left_out")
        print_json({name: getattr(found, name) for name in counts})
        return
    typer.echo(f"Label Studio has {found.listed} annotations of project {opened.key}.")
    typer.echo(f"{found.added} statements were new, {found.gone} annotations are gone, {found.returned} are back.")
    typer.echo(f"{found.shown} predictions that annotators started from were new.")
    if found.left_out:
        typer.echo(f"{found.left_out} annotations can't be used: they have no id, or are too large.")


def report(
    project: ProjectArgument,
    out: Annotated[Path, typer.Option(help="File to write, .html or .json.")] = Path("report.html"),
) -> None:
    """Write a report: edits over time, versions with their verdicts, tags, agreement, drift, and when to stop."""
    if out.suffix not in (".html", ".json"):
        raise InputError(f"--out {out}: give a name that ends with .html or .json.")
    check_folder_of(out)
    opened = open_project(project)
    given = opened.jobs, opened.settings, opened.project
    text = html_report(*given) if out.suffix == ".html" else json.dumps(project_report(*given), indent=1)
    with written_whole(out) as file:
        file.write(text.encode())
    typer.echo(f"The report on project {opened.key} is in {out}.")


def _read(opened: OpenProject) -> tuple[list[CurrentAnnotation], list[ImageLabels], list[CaptionCorrection]]:
    """Annotations, and what they say about tags and captions."""
    annotations = opened.jobs.ledger.annotations(opened.key)
    shown = opened.jobs.ledger.shown(opened.key, annotated=True)
    schema = parse_label_config(opened.project.label_config)
    captions = caption_corrections(schema, annotations, shown)
    return annotations, corrections_of(schema, annotations, shown), captions


def _facts(annotation: CurrentAnnotation, corrections: Sequence[ImageLabels]) -> dict[str, Any]:
    parsed = annotation.parsed
    notes = {
        "skipped": parsed.was_cancelled,
        "made from a prediction, nobody looked": parsed.auto_created,
        "ground truth": parsed.ground_truth,
    }
    return {
        "task": parsed.task,
        "annotation": parsed.id,
        "annotator": parsed.completed_by,
        "when": None if parsed.updated_at is None else parsed.updated_at.isoformat(timespec="seconds"),
        "usable": parsed.usable,
        **{state: sorted({tag for each in corrections for tag in each.tags(state)}) for state in _STATES},
        "model_version": next((version for each in corrections for version in each.model_versions), None),
        "version": next((version for each in corrections for version in each.versions), None),
        "note": ", ".join(name for name, holds in notes.items() if holds),
    }


def _exported(labels: ImageLabels, untouched: bool) -> dict[str, Any]:
    tags = dict.fromkeys([*labels.states, *(labels.candidates if untouched else ())])
    found = {tag: labels.label(tag) for tag in sorted(tags)}
    return {
        "task": labels.task_id,
        "image": labels.to_name,
        "reference": labels.reference,
        "ground_truth": labels.ground_truth,
        "annotations": list(labels.annotation_ids),
        "model_versions": list(labels.model_versions),
        "tags": {
            tag: {"label": each.label, "weight": round(each.weight, 6), "state": each.state, "score": each.score}
            for tag, each in found.items()
        },
    }
