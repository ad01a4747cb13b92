"""`ram-backend project`: options of a project, trusted host, deletion."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ram_backend.cli.opening import OpenProject, ProjectArgument, listed_tags, open_project
from ram_backend.cli.output import AsJson, JsonLines, print_json, print_rows
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, RamError, listed
from ram_backend.jobs.erasure import erase, traces_of
from ram_backend.labelstudio.client import connect_command
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.schema import LabelSchema
from ram_backend.projects.keys import instance_of
from ram_backend.projects.options import ProjectOptions, merge, parse_options
from ram_backend.projects.project import Project, TrustedHost, connection_of
from ram_backend.projects.table import ProjectTable
from ram_backend.server.resolved_config import VersionRef, precision_notes
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.records import ServedVersion

NAMED = 5
"""Choices in a remark."""

_PER_TAG = re.compile(r"(.*\S.*)=\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*", re.IGNORECASE | re.DOTALL)

Option = StrEnum("Option", ("tags", "threshold", "per_tag", "top_k", "precision", "add_cost", "all"))

app = typer.Typer(help="Tags and thresholds of a Label Studio project: set, show, list, forget.", no_args_is_help=True)


@app.command("set")
def set_(
    project: ProjectArgument,
    tags: Annotated[str | None, typer.Option(help="Only these tags, with commas between them.")] = None,
    tags_file: Annotated[Path | None, typer.Option(help="Only the tags of this file, one a line.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Of all tags: 0 to 1.")] = None,
    per_tag: Annotated[list[str] | None, typer.Option(help="Of one tag: NAME=0.4; may be repeated.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Show at most this many tags.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="In place of a threshold: share of right ticks, 0 to 1.")
    ] = None,
    add_cost: Annotated[float | None, typer.Option(help="Cost of adding a tag, in removed ticks: 0.01 to 100.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also tags that the label config doesn't have.")] = False,
) -> None:
    """Set tags, thresholds or the number of tags; what is not named stays.

    Stronger than this are the extra params of the connection in Label Studio,
    then attributes in the label config.
    """
    given = {
        "tags": listed_tags(tags, tags_file),
        "threshold": threshold,
        "per_tag": _per_tag(per_tag),
        "top_k": top_k,
        "precision": precision,
        "add_cost": add_cost,
    }
    if all(value is None for value in given.values()):
        options = "--tags, --tags-file, --threshold, --per-tag, --top-k, --precision or --add-cost"
        raise InputError(f"Nothing to set: give {options}.")
    new = parse_options(given, source="project set")
    opened = open_project(project)
    schema = None if force else _plan(opened.project)
    if schema is not None and (unknown := _unknown_choices(schema, new)):
        raise InputError(f"No choice of the label config is called {unknown}; --force sets it nevertheless.")
    _set_options(opened, lambda old: merge(new, old))


@app.command()
def unset(
    project: ProjectArgument,
    options: Annotated[list[Option], typer.Argument(metavar="OPTION", help=f"{', '.join(Option)}.")],
) -> None:
    """Take back what `set` has set."""

    def without(old: ProjectOptions) -> ProjectOptions:
        rest = {name: value for name, value in old.to_json().items() if not {name, "all"} & set(options)}
        return parse_options(rest, source="project unset")

    _set_options(open_project(project), without)


@app.command()
def show(project: ProjectArgument, as_json: AsJson = False) -> None:
    """Show what is known of a project, what is in force and from where, what is served, and what comes next."""
    opened = open_project(project)
    facts = _facts(opened.project, opened.trusted_host, opened.settings)
    served = opened.jobs.versions.served(opened.key)
    new = opened.jobs.new_corrections(opened.key)[opened.key]
    facts |= {
        "in_force": _in_force(opened.project, opened.settings.bundle),
        "served": f"{served.name}, pinned" if served.pinned else served.name,
        "corrections": f"{new.changed} changed, {new.next_training}",
    }
    notes = {"precision": _promises(opened, served), "remarks": _remarks(opened.project)}
    facts |= {name: lines for name, lines in notes.items() if lines}
    if as_json:
        print_json(facts, indent=1)
        return
    facts["in_force"] = [f"{each['option']} {_short(each['value'])}  ({each['from']})" for each in facts["in_force"]]
    del facts["holds"]
    print_rows((), [(name.replace("_", " "), _text(value)) for name, value in facts.items()])


@app.command("list")
def list_(as_json: JsonLines = False) -> None:
    """List the projects that Label Studio has connected."""
    settings = load_settings()
    changes = ProjectTable(open_migrated(settings)).changes()
    projects = sorted(changes.projects, key=lambda each: each.key)
    rows = [_facts(each, changes.trusted_host, settings) for each in projects]
    if as_json:
        print_json(*rows)
        return
    if not rows:
        typer.echo("No project yet: connect this backend in Label Studio (Settings > Model).")
    for row in rows:
        typer.echo(f"{row['project']}  ({row['host']}; holds: {_text(row['holds'])})")
        if row["extra_params_problem"]:
            typer.echo(f"    {row['extra_params_problem']}")


@app.command("pin-host")
def pin_host(
    url: Annotated[str, typer.Argument(help="Address of the Label Studio that tokens may be sent to.")],
) -> None:
    """Trust this Label Studio, and no other any more: tokens are sent to it, and images fetched from it.

    `LABEL_STUDIO_URL` is stronger than what is pinned. Only where both this
    server and Label Studio are on loopback addresses, the first one that
    connects is trusted by itself, with its own token.
    """
    settings = load_settings()
    host = instance_of(url)
    if not host:
        raise InputError("The address is empty: give one such as http://localhost:8080.")
    ProjectTable(open_migrated(settings)).pin_host(host)
    typer.echo(f"{host} is trusted, for projects with that address in `project list`.")
    if settings.label_studio_url:
        typer.echo("LABEL_STUDIO_URL is set and stronger: unset it to use what is pinned.")


@app.command()
def forget(
    project: ProjectArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove everything of a project for good: settings, corrections, versions, jobs, cached images.

    Label Studio itself keeps tasks, annotations and predictions. While it is
    still connected, its next request makes the project known again.
    """
    opened = open_project(project)
    traces = traces_of(opened.settings, opened.database, opened.key)
    counts = {"row of " + table: count for table, count in traces.rows.items()}
    counts |= {"version": len(traces.versions), "cached image": len(traces.images)}
    typer.echo(f"Project {opened.key}: {', '.join(f'{count:,} x {name}' for name, count in counts.items())}.")
    if dry_run:
        return
    if not yes:
        typer.confirm("Remove all of it? Nothing brings it back.", abort=True)
    opened.jobs.table.expire()  # jobs of dead workers
    erase(opened.settings, opened.database, opened.key)
    typer.echo("It is forgotten.")


def _set_options(opened: OpenProject, edit: Callable[[ProjectOptions], ProjectOptions]) -> None:
    """Changes what `set` has set, and prints what holds then."""
    changed = opened.jobs.projects.edit_options(opened.key, edit)
    typer.echo(f"Project {changed.key}: set {_text(changed.admin_options.to_json())}.")
    if changed.extra_params:
        typer.echo(f"Stronger, from the extra params of its connection: {_text(changed.extra_params.to_json())}.")
    for remark in _remarks(changed):
        typer.echo(remark)
    number = opened.key.id
    typer.echo(f"It holds for new predictions: `ram-backend prelabel {number}` or Retrieve Predictions makes some.")


def _per_tag(pairs: list[str] | None) -> dict[str, float] | None:
    result: dict[str, float] = {}
    for pair in pairs or ():
        found = _PER_TAG.fullmatch(pair)
        if found is None:
            raise InputError(f"--per-tag {pair!r} can't be used: give NAME=NUMBER, such as cat=0.4.")
        result[found[1].strip()] = float(found[2])
    return result or None


def _facts(project: Project, trusted_host: TrustedHost | None, settings: Settings) -> dict[str, Any]:
    connection = connection_of(settings, project, trusted_host)
    host = "trusted" if connection.trusted else f"not trusted: {connect_command(project.key.id)}"
    config = project.label_config
    return {
        "project": str(project.key),
        "address": connection.base_url or "unknown",
        "host": host if connection.base_url else "unknown",
        "access_token": "set" if project.access_token else "not set",
        "label_config": f"{len(config):,} characters" if config else "none",
        "extra_params": project.extra_params.to_json(),
        "extra_params_problem": project.extra_params_error,
        "set": project.admin_options.to_json(),
        "holds": project.options().to_json(),
        "revision": project.revision,
        "updated_at": project.updated_at.isoformat(timespec="seconds") if project.updated_at else None,
    }


def _plan(project: Project) -> LabelSchema | None:
    """The label config; None: there is none yet, or it can't be read."""
    try:
        return parse_label_config(project.label_config) if project.label_config else None
    except RamError:
        return None


def _in_force(project: Project, bundle: str) -> list[dict[str, Any]]:
    """Each option in force, with its value and the layer that it comes from."""
    schema = _plan(project)
    controls = schema.tag_controls if schema else ()
    by_control = [(each.name, ProjectOptions(**each.attributes)) for each in controls]
    layers = {"extra params": project.extra_params, "project set": project.admin_options}
    found: list[dict[str, Any]] = []
    for name, own in by_control or [("", ProjectOptions())]:
        for option, value in project.options(own).to_json().items():
            sources = [source for source, layer in layers.items() if option in layer.to_json()]
            if option in own.to_json() and "extra params" not in sources:
                sources = [f"label config, control {name}"]
            source = " and ".join(sources) if option == "per_tag" else sources[0]
            found.append({"option": option, "value": value, "from": source})

    options = {each["option"] for each in found}
    if "tags" not in options:
        free_text = any(each.free_text for each in controls)
        choices = "any text" if free_text else sum(len(each.choices) for each in controls)
        found.append({"option": "tags", "value": choices, "from": "label config"})
    if not options & {"threshold", "precision"}:
        source = f"what is served, else the bundle {bundle}"
        found.append({"option": "threshold", "value": "per tag", "from": source})
    return [each for place, each in enumerate(found) if each not in found[:place]]


def _remarks(project: Project) -> list[str]:
    """Sentences about what a label config overrules, lacks or leaves unfilled."""
    if not project.label_config:
        return []
    try:
        schema = parse_label_config(project.label_config)
    except RamError as error:
        return [str(error)]
    found = [*schema.notes]
    found += [
        f"Stronger, from the label config, for {control.name!r}: {json.dumps(stronger)}."
        for control in schema.tag_controls
        if (stronger := ProjectOptions(**control.attributes).to_json())
    ]
    if unknown := _unknown_choices(schema, project.options()):
        found.append(f"No choice of the label config is called {unknown}: see how they are written there.")
    return found


def _unknown_choices(schema: LabelSchema, options: ProjectOptions) -> str:
    """The options' tags that are no choice, each with the closest one; "": none."""
    if any(control.free_text or control.dynamic is not None for control in schema.tag_controls):
        return ""  # their choices are any text, or come with each task
    names = {name for control in schema.tag_controls for choice in control.choices for name in choice.names}
    folded = {name.casefold() for name in names}
    missing = [tag for tag in options.tags or () if tag.strip().casefold() not in folded]
    missing += [name for name in options.per_tag if name not in names]
    unknown = list(dict.fromkeys(missing))
    close = {name: get_close_matches(name.casefold(), folded, n=1) for name in unknown[:NAMED]}
    hints = {name: f" (did you mean {near[0]}?)" for name, near in close.items() if near}
    return listed(unknown, NAMED, lambda name: f"{name!r}{hints.get(name, '')}")


def _promises(opened: OpenProject, served: ServedVersion) -> list[str]:
    """Whether a requested precision can be promised."""
    schema = _plan(opened.project)
    options = {
        each.name: opened.project.options(ProjectOptions(**each.attributes))
        for each in (schema.tag_controls if schema else ())
    }
    version = None
    if served.version:
        version = VersionRef(opened.key, served.version, served.digest or "", None, served.learned)
    return precision_notes(options, version)


def _text(value: object) -> str:
    """A fact on one line, or on several; long lists of tags are cut."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if value is None or value == {}:
        return "nothing"
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(f"{name} {_short(entry)}" for name, entry in value.items())


def _short(entry: object) -> str:
    items = [f"{key}={value}" for key, value in entry.items()] if isinstance(entry, dict) else entry
    return f"[{listed(items, 8)}]" if isinstance(items, list) else str(items)
