"""`ram-backend corrections`: what people said about the tags of a project, as the ledger has it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError
from ram_backend.feedback.connecting import open_project_api
from ram_backend.feedback.corrections import Correction, corrections_of, gather
from ram_backend.feedback.labels import State, TaskLabels, Weights
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.reconcile import reconcile
from ram_backend.feedback.shown import ServedPrediction
from ram_backend.feedback.view import CurrentAnnotation
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import LabelPlan
from ram_backend.projects.connection import Pin
from ram_backend.projects.keys import select
from ram_backend.projects.project import Project
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings

app = typer.Typer(help="What people said about tags: list, stats, export, reconcile.", no_args_is_help=True)

_out = Console(highlight=False, soft_wrap=True)
_STATES: tuple[State, ...] = ("confirmed", "added", "removed")

Id = Annotated[str, typer.Option("--project", "-p", help="Number of the project in Label Studio.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]


@dataclass(frozen=True)
class _Place:
    """A project, and what there is of its ledger."""

    settings: Settings
    project: Project
    pin: Pin | None
    ledger: Ledger
    pending: int

    @property
    def plan(self) -> LabelPlan:
        return parse_label_config(self.project.label_config)

    @property
    def weights(self) -> Weights:
        return Weights.of(self.settings)


@app.command("list")
def list_(
    project: Id,
    task: Annotated[int | None, typer.Option(help="Only those of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List annotations, latest first, with what each says about the tags that were shown."""
    place = _open(project)
    annotations = [each for each in place.ledger.annotations(place.project.key) if task in (None, each.stated.task)]
    chosen = sorted(annotations, key=lambda each: (each.stated.updated_us, each.stated.id), reverse=True)[:limit]
    facts = [_facts(each, said) for each, said in _with_corrections(place, chosen)]
    if as_json:
        for row in facts:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    if not facts:
        typer.echo(f"No corrections of project {place.project.key.id}.")
        return
    table = Table("task", "annotator", "when", *_STATES, "started from", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[2].no_wrap = True
    table.columns[-1].overflow = "fold"
    for row in facts:
        counts = [str(len(row[state])) if row["usable"] else "-" for state in _STATES]
        when = (row["when"] or "?")[:16].replace("T", " ")
        origin = "; ".join(part for part in (row["note"], row["model_version"]) if part) or "-"
        table.add_row(str(row["task"]), str(row["annotator"] or "?"), when, *counts, Text(origin))
    _out.print(table)
    if len(annotations) > len(facts):
        typer.echo(f"{len(annotations) - len(facts)} more: --limit {len(annotations)}.")


@app.command()
def stats(
    project: Id,
    top: Annotated[int | None, typer.Option(min=1, help="Only the tags with the most statements.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count what was confirmed, added and removed, per tag and in all.

    "right" is how often a shown tag was left on, "found" how often a tag that is there had been shown.
    """
    place = _open(project)
    annotations = place.ledger.annotations(place.project.key)
    shown = place.ledger.shown(place.project.key, annotated=True)
    corrections = corrections_of(place.plan, annotations, shown, place.weights)
    labels = gather(place.plan, annotations, shown, place.weights)
    totals = _totals(place, annotations, corrections, labels)
    rows = _per_tag(corrections)[:top]
    if as_json:
        typer.echo(json.dumps({**totals, "tags": rows}, ensure_ascii=False, indent=1))
        return
    for name, value in totals.items():
        typer.echo(f"{name.replace('_', ' ')}: {_share(value) if name == 'agreement' else value}")
    if rows:
        table = Table("tag", *_STATES, "right", "found")
        for row in rows:
            shares = [_share(row["right"]), _share(row["found"])]
            table.add_row(Text(row["tag"]), *(str(row[state]) for state in _STATES), *shares)
        _out.print(table)


@app.command()
def export(
    project: Id,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: standard output.")
    ] = None,
    untouched: Annotated[bool, typer.Option("--untouched", help="With the tags that nobody touched.")] = False,
) -> None:
    """Write what is known about each image, one JSON object a line: tags with label, weight and state."""
    place = _open(project)
    key = place.project.key
    labels = gather(place.plan, place.ledger.annotations(key), place.ledger.shown(key, annotated=True), place.weights)
    lines = (json.dumps(_exported(each, untouched), ensure_ascii=False) for each in labels)
    if output is None:
        for line in lines:
            typer.echo(line)
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        partial.replace(output)
    except OSError as error:
        raise InputError(f"{output} can't be written ({error}): give another file with --output.") from None
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{len(labels)} images written to {output}.")


@app.command("reconcile")
def reconcile_(project: Id, as_json: AsJson = False) -> None:
    """Ask Label Studio for all annotations, and add to the ledger what its events did not bring."""
    place = _open(project)
    api = open_project_api(place.settings, place.project, pin=place.pin)
    found = reconcile(place.ledger, place.project.key, api)
    counts = {name: getattr(found, name) for name in ("listed", "added", "gone", "returned", "shown", "left_out")}
    if as_json:
        typer.echo(json.dumps(counts))
        return
    typer.echo(f"Label Studio has {found.listed} annotations of project {place.project.key}.")
    typer.echo(f"{found.added} statements were new, {found.gone} annotations are gone, {found.returned} are back.")
    typer.echo(f"{found.shown} predictions that annotators started from were new.")
    if found.left_out:
        typer.echo(f"{found.left_out} annotations can't be used: they have no number, or are too large.")


def _open(project: str) -> _Place:
    from ram_backend.jobs.service import JobService

    settings = load_settings()
    database = open_migrated(settings)
    changes = ProjectTable(database).changes()
    there = {each.key: each for each in changes.projects}
    found = there[select(there, project)]
    pending = JobService(settings, database).pending(found.key)
    return _Place(settings, found, changes.pin, Ledger(database), pending)


def _with_corrections(
    place: _Place, annotations: Sequence[CurrentAnnotation]
) -> Iterator[tuple[CurrentAnnotation, list[Correction]]]:
    shown: Mapping[int, Sequence[ServedPrediction]] = place.ledger.shown(place.project.key, annotated=True)
    said: dict[int, list[Correction]] = {}
    for correction in corrections_of(place.plan, annotations, shown, place.weights):
        said.setdefault(correction.annotation_id, []).append(correction)
    for annotation in annotations:
        yield annotation, said.get(annotation.stated.id, [])


def _facts(annotation: CurrentAnnotation, said: Sequence[Correction]) -> dict[str, Any]:
    stated = annotation.stated
    notes = {
        "skipped": stated.was_cancelled,
        "made from a prediction, nobody looked": stated.unseen,
        "ground truth": stated.ground_truth,
    }
    return {
        "task": stated.task,
        "annotation": stated.id,
        "annotator": stated.completed_by,
        "when": _when(stated.updated_at),
        "usable": annotation.usable,
        **{state: sorted({tag for each in said for tag in each.tags(state)}) for state in _STATES},
        "model_version": next((each.model_version for each in said), None),
        "version": next((each.version for each in said), None),
        "note": ", ".join(name for name, holds in notes.items() if holds),
    }


def _totals(
    place: _Place,
    annotations: Sequence[CurrentAnnotation],
    corrections: Sequence[Correction],
    labels: Sequence[TaskLabels],
) -> dict[str, Any]:
    states = Counter(label.state for each in corrections for label in each.states.values())
    several = [each for each in labels if len(each.annotation_ids) > 1]
    return {
        "project": str(place.project.key),
        "annotations": len(annotations),
        "usable": sum(each.usable for each in annotations),
        "skipped": sum(each.stated.was_cancelled for each in annotations),
        "nobody_looked": sum(each.stated.unseen for each in annotations),
        "tasks": len({each.task_id for each in labels}),
        "ground_truth_tasks": len({each.task_id for each in labels if each.ground_truth}),
        "tasks_of_several_annotators": len({each.task_id for each in several}),
        "agreement": _agreement(corrections),
        **{state: states[state] for state in _STATES},
        "changed_since_last_training": place.pending,
    }


def _agreement(corrections: Sequence[Correction]) -> float | None:
    """Of the tags that any annotator of an image ticked, the share that all of them ticked; None: no image has two."""
    by_image: dict[tuple[int, str], list[set[str]]] = {}
    for each in corrections:
        ticked = {tag for tag, label in each.states.items() if label.label}
        by_image.setdefault((each.task_id, each.to_name), []).append(ticked)
    several = [sets for sets in by_image.values() if len(sets) > 1]
    if not several:
        return None
    any_, all_ = (sum(len(join(*sets)) for sets in several) for join in (set.union, set.intersection))
    return all_ / any_ if any_ else 1.0


def _per_tag(corrections: Sequence[Correction]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[State]] = {}
    for each in corrections:
        for tag, label in each.states.items():
            if label.state in _STATES:
                counts.setdefault(tag, Counter())[label.state] += 1
    rows = [
        {
            "tag": tag,
            **{state: count[state] for state in _STATES},
            "right": _ratio(count["confirmed"], count["removed"]),
            "found": _ratio(count["confirmed"], count["added"]),
        }
        for tag, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-sum(counts[row["tag"]].values()), row["tag"]))


def _exported(labels: TaskLabels, untouched: bool) -> dict[str, Any]:
    tags = dict.fromkeys([*labels.states, *(labels.candidates.tags if untouched else ())])
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


def _ratio(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _when(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
