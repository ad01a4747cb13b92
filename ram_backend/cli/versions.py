"""`ram-backend versions`: what was learned from a project's corrections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ram_backend.cli.opening import OpenProject, ProjectArgument, open_project
from ram_backend.cli.output import AsJson, print_json, print_rows
from ram_backend.errors import RamError, VersionDamaged, VersionRefused
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.models.calibration import sigmoid
from ram_backend.versions.directory import Version, open_version, version_path
from ram_backend.versions.records import BASE, Lineage, ServedVersion, VersionRecord

app = typer.Typer(help="Versions of a project: list, show, diff, activate, rollback, pin, unpin.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help='Such as v0003, or "base" for the bundle without any version.')]

NUMBERS = ("threshold", "base_scale", "bias")
_Tag = tuple[Mapping[str, float | None], NDArray[np.float32]]
_NONE = np.zeros(1, dtype=np.float32)
_BASE: _Tag = ({"threshold": None, "base_scale": 1.0, "bias": 0.0}, _NONE)


@app.command("list")
def list_(project: ProjectArgument, as_json: AsJson = False) -> None:
    """List a project's versions, oldest first, with the gate's verdict on each; rejected ones, too."""
    opened = open_project(project)
    table = opened.jobs.versions
    served, records = table.served(opened.key), table.list(opened.key)
    if as_json:
        facts = {"project": str(opened.key), "served": served.name, "pinned": served.pinned}
        print_json({**facts, "versions": [_facts(each, served) for each in records]})
        return
    if not records:
        pinned_too = ", and pinned" if served.pinned else ""
        typer.echo(f"Project {opened.key} has no version yet: the bundle's base is served{pinned_too}.")
        return
    mark = "served, pinned" if served.pinned else "served"
    rows = [[BASE, "", "", "", "", "", mark if served.name == BASE else ""]]
    for each in records:
        trainer, edits, count = "?", "", "?"
        if (lineage := each.lineage) is not None:
            before = lineage.metrics_before.get("edits")
            after = lineage.metrics_after.get("edits")
            trainer, count = lineage.trainer, str(lineage.corrections.count)
            edits = "" if before is None or after is None else f"{before:.2f} -> {after:.2f}"
        now = mark if served.name == each.name else ""
        rows.append([each.name, each.state, _made(each), trainer, edits, count, now])
    print_rows(("version", "state", "made", "trainer", "edits", "corrections", ""), rows)
    for each in records:
        typer.echo(f"{each.name}  {each.quarantined or each.verdict.get('reason') or each.outcome}")


@app.command()
def show(
    project: ProjectArgument,
    version: Annotated[str, typer.Argument(help="Such as v0003; `bundles show` shows the bundle itself.")],
    as_json: AsJson = False,
) -> None:
    """Show where a version comes from, what the gate said, and whether its files are whole."""
    opened = open_project(project)
    record = opened.jobs.versions.get(opened.key, version)
    try:
        files = "removed, as newer versions came" if record.removed else "whole"
        if not record.removed:
            _read(opened, record)
    except VersionDamaged as error:
        files = str(error)
    facts = {**_facts(record, opened.jobs.versions.served(opened.key)), "files": files}
    if as_json:
        print_json(facts)
        return
    figures = record.verdict.get("figures", {})
    said = {
        "version": f"{record.name}, {record.state}{', served' * facts['served']}",
        "made": _made(record),
        "verdict": record.quarantined or record.verdict.get("reason") or record.outcome,
        "wrong ticks gone": _counts(figures, "vanished."),
        "new right ticks": _counts(figures, "found."),
        "photos at random": _at_random(figures),
        "files": files,
    }
    if record.lineage is not None:
        said |= {"after": record.lineage.parent or BASE, "learned by": _training_of(record.lineage)}
    print_rows((), [*((name, value) for name, value in said.items() if value), ("more", "--json")])


@app.command()
def diff(
    project: ProjectArgument,
    before: Name,
    after: Name,
    top: Annotated[int, typer.Option(min=1, help="At most this many tags, those that changed most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: the tags that changed most; `show` has the corrections and the figures of each."""
    opened = open_project(project)
    records = [None if name == BASE else opened.jobs.versions.get(opened.key, name) for name in (before, after)]
    sides = [None if record is None else _read(opened, record) for record in records]
    changes = _compare(*sides)
    if as_json:
        print_json({"before": before, "after": after, "tags_that_differ": len(changes), "tags": changes[:top]})
        return
    if not changes:
        typer.echo("No tag differs.")
        return
    rows = [[each["tag"], *_numbers(each), "too" if each["weights_moved"] else ""] for each in changes[:top]]
    print_rows(("tag", "ticked above", "what the bundle scores 0.5", "by the photo"), rows)
    more = f"and {len(changes) - top} more; --top shows them. " if len(changes) > top else ""
    typer.echo(f"{more}Each column: {before}, then {after}.")


@app.command()
def rollback(
    project: ProjectArgument,
    version: Annotated[
        str | None, typer.Argument(help='Such as v0003, or "base"; default: the parent of what is served.')
    ] = None,
) -> None:
    """Serve an earlier version, or the bundle's base, from now on; nothing replaces it until `unpin`."""
    opened = open_project(project)
    if version is None:
        table = opened.jobs.versions
        served = table.served(opened.key)
        if served.version is None:
            raise VersionRefused(f"Project {opened.key} is served the bundle's base, and there is nothing before it.")
        lineage = table.get(opened.key, served.version).lineage
        version = (lineage.parent if lineage is not None else None) or BASE
    _serve(opened, version)


@app.command()
def activate(project: ProjectArgument, version: Name) -> None:
    """Serve this version from now on, also a later one than is served; nothing replaces it until `unpin`."""
    _serve(open_project(project), version)


@app.command()
def pin(project: ProjectArgument) -> None:
    """Keep what is served now: no training, no new version until `unpin`."""
    opened = open_project(project)
    typer.echo(f"Project {opened.key} is pinned to {opened.jobs.versions.pin(opened.key).name}.")


@app.command()
def unpin(project: ProjectArgument) -> None:
    """Let new versions be served again; what is served stays until one is accepted."""
    opened = open_project(project)
    served = opened.jobs.versions.pin(opened.key, pinned=False)
    typer.echo(f"Project {opened.key} is not pinned any more; it is served {served.name}.")


def _serve(opened: OpenProject, name: str) -> None:
    before = opened.jobs.versions.served(opened.key)
    served, job = opened.jobs.roll_back(opened.key, name)
    typer.echo(f"Project {opened.key} is served {served.name} instead of {before.name}, and pinned to it.")
    try:
        parse_label_config(opened.project.label_config)
    except RamError as error:
        typer.echo(f"No prediction follows: {error}")
        return
    if job is not None:
        typer.echo(f"A worker brings Label Studio's predictions up to date (job {job.short}).")


def _read(opened: OpenProject, record: VersionRecord) -> Version:
    """Reads a version, and raises VersionDamaged if its files are not whole."""
    path = version_path(opened.settings.versions_dir, opened.key, record.name)
    return open_version(path, None, key=opened.key, digest=record.digest)


def _facts(record: VersionRecord, served: ServedVersion) -> dict[str, Any]:
    return {
        "version": record.name,
        "state": record.state,
        "served": served.name == record.name,
        "pinned": served.name == record.name and served.pinned,
        "recorded_at": record.recorded_at.isoformat(timespec="seconds"),
        "digest": record.digest,
        "quarantined": record.quarantined,
        "verdict": dict(record.verdict),
        "lineage": None if record.lineage is None else record.lineage.to_json(),
    }


def _made(record: VersionRecord) -> str:
    return record.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M")


def _at_random(figures: Mapping[str, float]) -> str:
    """Edits and calibration on photos drawn at random; "" where none are yet."""
    if "random.images" not in figures:
        return ""
    edits = f"{figures['random.incumbent']:.2f} -> {figures['random.candidate']:.2f} edits each"
    error = figures.get("random.calibration_error", 0)
    return f"{figures['random.images']:.0f}, {edits}, calibration error {error:.3f}"


def _counts(figures: Mapping[str, float], prefix: str) -> str:
    """What the verdict counted per tag, most first."""
    found = {name: count for name, count in figures.items() if name.startswith(prefix)}
    most_first = sorted(found.items(), key=lambda each: -each[1])
    return ", ".join(f"{name.removeprefix(prefix)} {count:.0f}" for name, count in most_first)


def _compare(before: Version | None, after: Version | None) -> list[dict[str, Any]]:
    """The tags that differ between two versions (None: the base), the most changed first.

    A tag's threshold (None: the bundle's), base_scale and bias "before" and
    "after", and the L2 distance of its weights, "weights_moved".
    """
    old, new = _tags_of(before), _tags_of(after)
    found: list[tuple[float, dict[str, Any]]] = []
    for tag in {**old, **new}:
        numbers, weights = old.get(tag, _BASE)
        new_numbers, new_weights = new.get(tag, _BASE)
        fits = weights.shape == new_weights.shape or 1 in weights.shape + new_weights.shape
        moved = float(np.linalg.norm(new_weights - weights if fits else new_weights))
        if moved or numbers != new_numbers:
            pairs = [(numbers[name], new_numbers[name]) for name in NUMBERS]
            size = moved + sum(abs(b - a) for a, b in pairs if a is not None and b is not None)
            change = {"tag": tag, "before": numbers, "after": new_numbers, "weights_moved": moved}
            found.append((size, change))
    return [change for _, change in sorted(found, key=lambda each: -each[0])]


def _tags_of(version: Version | None) -> dict[str, _Tag]:
    if version is None:
        return {}
    delta = version.delta
    values = zip(delta.thresholds, delta.base_scale, delta.bias, strict=True)
    numbers = [{name: round(float(v), 6) for name, v in zip(NUMBERS, row, strict=True)} for row in values]
    return dict(zip(delta.tags, zip(numbers, delta.weight, strict=True), strict=True))


def _training_of(lineage: Lineage) -> str:
    used, edits = lineage.corrections, lineage.metrics_after.get("edits")
    figures = "" if edits is None else f", {edits:.2f} edits per photo"
    gone = f", {used.withdrawn} withdrawn" if used.withdrawn else ""
    learned_from = f"{used.count} corrections ({used.added} of them new{gone})"
    return f"{lineage.trainer} from {learned_from}{figures}"


def _numbers(change: Mapping[str, Any]) -> Iterator[str]:
    """Threshold, and score of log-odds 0 in the bundle: before and after."""
    sides = [change["before"], change["after"]]
    thresholds = ["bundle's" if each["threshold"] is None else f"{each['threshold']:.2f}" for each in sides]
    scores = [f"{sigmoid(np.array(each['bias'])):.2f}" for each in sides]
    for before, after in (thresholds, scores):
        yield before if before == after else f"{before} to {after}"
