"""`ram-backend versions`: what was learned from a project's corrections, and which of it is served."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import VersionDamaged, VersionRefused
from ram_backend.projects.keys import ProjectKey, select
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.diff import Compared, compare
from ram_backend.versions.directory import BASE, open_version, version_path
from ram_backend.versions.records import Served, VersionRecord
from ram_backend.versions.table import VersionTable

app = typer.Typer(help="Versions of a project: list, show, diff, rollback, pin, unpin.", no_args_is_help=True)

_out = Console(highlight=False, soft_wrap=True)

Id = Annotated[str, typer.Argument(metavar="PROJECT", help="Number of the project in Label Studio.")]
Name = Annotated[str, typer.Argument(help='Such as v0003, or "base" for the bundle without any version.')]
AsJson = Annotated[bool, typer.Option("--json", help="JSON.")]

AfterChange = Callable[[Settings, ProjectKey, str], str | None]


@dataclass(frozen=True)
class _Place:
    """A project, and its versions."""

    settings: Settings
    key: ProjectKey
    table: VersionTable

    def marks(self, name: str, served: Served) -> str:
        """What a list says beside a version's name."""
        if served.name != name:
            return ""
        return "served, pinned" if served.pinned else "served"


def ask_for_refresh(settings: Settings, key: ProjectKey, reason: str) -> str | None:
    """Asks the jobs for fresh predictions of a project's unlabelled tasks; says so in a sentence, None: it can't."""
    from ram_backend.jobs.service import JobService

    job = JobService(settings, open_database(settings)).queue.request(key, "refresh", reason).job
    return f"A worker brings Label Studio's predictions up to date (job {job.id})."


after_change: AfterChange = ask_for_refresh
"""Called when what is served has changed: with the settings, the project, and why."""


@app.command("list")
def list_(project: Id, as_json: AsJson = False) -> None:
    """List a project's versions, oldest first, with the gate's verdict on each; rejected ones, too."""
    place = _open(project)
    served, records = place.table.served(place.key), place.table.list(place.key)
    if as_json:
        facts = {"served": served.name, "pinned": served.pinned, "versions": [_facts(each, served) for each in records]}
        typer.echo(json.dumps({"project": str(place.key), **facts}, ensure_ascii=False))
        return
    if not records:
        typer.echo(f"Project {place.key} has no version yet: the bundle's base is served{_pinned(served)}.")
        return
    table = Table("version", "state", "made", "recipe", "mAP", "corrections", "", box=None, pad_edge=False)
    table.add_row(BASE, "", "", "", "", "", place.marks(BASE, served))
    for each in records:
        when = each.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M")
        lineage = each.lineage
        recipe, count = ("?", "?") if lineage is None else (lineage.recipe, str(lineage.corrections.count))
        table.add_row(each.name, each.state, when, recipe, _map(each), count, place.marks(each.name, served))
    _out.print(table)
    for each in records:
        _out.print(Text(f"{each.name}  {each.quarantined or each.verdict.get('reason') or each.outcome}"))


@app.command()
def show(
    project: Id,
    version: Annotated[str, typer.Argument(help="Such as v0003; `bundles show` shows the bundle itself.")],
    as_json: AsJson = False,
) -> None:
    """Show where a version comes from, what the gate said, and whether its files are whole."""
    place = _open(project)
    record, served = place.table.get(place.key, version), place.table.served(place.key)
    facts = {**_facts(record, served), "files": _files(place, record)}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _flat(facts):
        table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    _out.print(table)


@app.command()
def diff(
    project: Id,
    before: Name,
    after: Name,
    top: Annotated[int, typer.Option(min=1, help="So many tags, those that changed most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: the tags that changed most, the figures of the gate, the corrections between them."""
    place = _open(project)
    compared = compare(*[_opened(place, name) for name in (before, after)])
    if as_json:
        typer.echo(json.dumps(compared.to_json(top), ensure_ascii=False))
        return
    _print_diff(compared, before, after, top)


@app.command()
def rollback(
    project: Id,
    version: Annotated[
        str | None, typer.Argument(help='Such as v0003, or "base"; default: the parent of what is served.')
    ] = None,
) -> None:
    """Serve an earlier version, or the bundle's base, from now on; nothing replaces it until `unpin`."""
    place = _open(project)
    name = version or _parent(place)
    if name != BASE:
        _verify(place, name)
    before = place.table.served(place.key)
    served = place.table.roll_back(place.key, None if name == BASE else name)
    typer.echo(f"Project {place.key} is served {served.name} instead of {before.name}, and pinned to it.")
    _tell(place, f"rolled back from {before.name} to {served.name}", changed=served.version != before.version)


@app.command()
def pin(project: Id) -> None:
    """Keep what is served now: nothing is learned or served anew until `unpin`."""
    place = _open(project)
    typer.echo(f"Project {place.key} is pinned to {place.table.pin(place.key).name}.")
    _tell(place, "pinned", changed=False)


@app.command()
def unpin(project: Id) -> None:
    """Let new versions be served again; what is served stays until one is accepted."""
    place = _open(project)
    typer.echo(f"Project {place.key} is not pinned any more; it is served {place.table.unpin(place.key).name}.")
    _tell(place, "unpinned", changed=False)


def _open(project: str) -> _Place:
    settings = load_settings()
    database = open_migrated(settings)
    keys = [each.key for each in ProjectTable(database).changes().projects]
    return _Place(settings, select(keys, project), VersionTable(database))


def _tell(place: _Place, reason: str, *, changed: bool) -> None:
    if changed and (said := after_change(place.settings, place.key, reason)):
        typer.echo(said)


def _parent(place: _Place) -> str:
    served = place.table.served(place.key)
    if served.version is None:
        raise VersionRefused(f"Project {place.key} is served the bundle's base, and there is nothing before it.")
    lineage = place.table.get(place.key, served.version).lineage
    return (lineage.parent if lineage is not None else None) or BASE


def _verify(place: _Place, name: str) -> None:
    """Refuses a version whose files are not whole; lifts a quarantine where they are again."""
    record = place.table.get(place.key, name)
    if record.removed or record.outcome != "accept":
        return  # the table says so, and why
    path = version_path(place.settings.versions_dir, place.key, name)
    open_version(path, None, key=place.key, digest=record.digest)
    if record.quarantined is not None:
        place.table.quarantine(place.key, name, None)


def _opened(place: _Place, name: str) -> Any:
    if name == BASE:
        return None
    record = place.table.get(place.key, name)
    path = version_path(place.settings.versions_dir, place.key, name)
    return open_version(path, None, key=place.key, digest=record.digest)


def _files(place: _Place, record: VersionRecord) -> str:
    if record.removed:
        return "removed, as newer versions came"
    try:
        path = version_path(place.settings.versions_dir, place.key, record.name)
        open_version(path, None, key=place.key, digest=record.digest)
    except VersionDamaged as error:
        return str(error)
    return "whole"


def _facts(record: VersionRecord, served: Served) -> dict[str, Any]:
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


def _flat(facts: Any, above: str = "") -> Sequence[tuple[str, str]]:
    """Nested facts as lines, "lineage.seed" and the like; what says nothing is left out."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        path = f"{above}{name}"
        if isinstance(value, dict):
            lines.extend(_flat(value, f"{path}."))
        elif value not in (None, "", [], ()):
            lines.append((path, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines


def _map(record: VersionRecord) -> str:
    """The mAP of the parent and of the version, on the gate's images."""
    if record.lineage is None:
        return ""
    before, after = record.lineage.metrics_before.get("mAP"), record.lineage.metrics_after.get("mAP")
    return "" if before is None or after is None else f"{before:.3f} to {after:.3f}"


def _pinned(served: Served) -> str:
    return ", and pinned" if served.pinned else ""


def _print_diff(compared: Compared, before: str, after: str, top: int) -> None:
    for line in compared.facts():
        _out.print(Text(line))
    if not compared.tags:
        _out.print("No tag differs.")
        return
    table = Table("tag", "threshold", "base scale", "bias", "weights moved", box=None, pad_edge=False)
    for tag in compared.tags[:top]:
        table.add_row(
            Text(tag.name), *[tag.shown(name) for name in ("threshold", "base_scale", "bias")], tag.moved_text
        )
    _out.print(table)
    left = len(compared.tags) - top
    if left > 0:
        _out.print(f"and {left} more; --top shows them. Each column: {before}, then {after}.")
    else:
        _out.print(f"Each column: {before}, then {after}.")
