"""Report on a project: quality by version, day and tag, agreement, drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ram_backend.console.charts import bars_per_day, before_and_after
from ram_backend.console.statistics import count_edits, statistics_of
from ram_backend.errors import NotAvailable
from ram_backend.feedback.labels import TagCounts
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.models.calibration import cost_thresholds
from ram_backend.models.registry import find_bundle
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.training.drift import ALARM_RATE, FILE, MOST_NEW, Drift, drift_since
from ram_backend.versions.directory import Version
from ram_backend.versions.records import BASE, VersionRecord
from ram_backend.versions.table import incumbent_of

MORE = 100
WORTH_IT = 0.01
"""Edits per photo that `MORE` photos have to save, to be worth labelling."""


def project_report(jobs: JobService, settings: Settings, project: Project) -> dict[str, Any]:
    """The report as JSON, with an admin's or the served version's thresholds."""
    key = project.key
    statistics = statistics_of(jobs.ledger, project)
    served, version = incumbent_of(jobs.versions, settings.versions_dir, key, None)
    records = jobs.versions.list(key)
    own: dict[str, Any] = {}
    if version is not None:
        own = dict(zip(version.delta.tags, version.delta.thresholds, strict=True))
    controls = () if statistics.problem else parse_label_config(project.label_config).tag_controls
    by_text = {text: (each, choice.names) for each in controls for choice in each.choices for text in choice.texts}

    def threshold(tag: str) -> float | None:
        control, names = by_text.get(tag, (controls[-1], (tag,)))
        options = project.options(ProjectOptions(**control.attributes))
        given = options.threshold_of(names, served.learned)
        if given is not None or tag not in own:
            return given
        return float(cost_thresholds(own[tag], control.add_cost if options.add_cost is None else options.add_cost))

    def row(tag: TagCounts) -> dict[str, Any]:
        figures = {"shown": tag.shown, "precision": tag.precision, "recall": tag.recall}
        return {**asdict(tag), **figures, "threshold": threshold(tag.tag)}

    counts = {each.name: each.lineage.corrections.count for each in records if each.lineage}
    steps = [
        (counts[parent], counts[each.name], figures[1] - figures[2])
        for each in records
        if each.lineage and (figures := plotted(each)) and (parent := each.lineage.parent) in counts
    ]

    saving = expected_saving(steps)
    drift = None if version is None else _drift(jobs, settings, project, version)
    facts = [{"version": BASE, "state": "", "verdict": "the bundle without any version"}, *map(_facts, records)]
    versions = []
    for fact in facts:
        edits, tags = statistics.by_version.get(fact["version"], (count_edits(()), ()))
        versions.append({**fact, **edits, "tags": [*map(row, tags)]})
    return {
        "project": str(key),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "served": served.name,
        "annotations": statistics.annotations,
        "agreement": statistics.agreement,
        "problem": statistics.problem,
        "days": {str(day): edits for day, edits in statistics.edits_by_day.items()},
        "versions": versions,
        "tags": [*map(row, statistics.tags)],
        "saving_per_100_photos": saving,
        "stop": None if saving is None else saving < WORTH_IT,
        "drift": None if drift is None else {**asdict(drift), "alarm_rate": ALARM_RATE},
    }


def report_values(jobs: JobService, settings: Settings, project: Project) -> dict[str, Any]:
    """What `report.html` shows: the report, its plots, tables and sentences."""
    report = project_report(jobs, settings, project)
    days = {date.fromisoformat(day): each["edits"] / each["photos"] for day, each in report["days"].items()}
    last_day = max(days, default=datetime.now(UTC).date())
    versions = jobs.versions.list(project.key)
    by_version = [(each["version"], each["tags"]) for each in report["versions"]]
    return {
        "report": report,
        "days": bars_per_day(days, last_day, "Edits per photo"),
        "plot": before_and_after([row for each in versions if (row := plotted(each))]),
        "tables": [("All", report["tags"]), *by_version],
        "sentences": list(_sentences(report)),
    }


def html_report(jobs: JobService, settings: Settings, project: Project) -> str:
    """The report as a page without any outside file."""
    folder = Path(__file__).parent
    loader = FileSystemLoader([folder / "templates", folder / "static"])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    values = report_values(jobs, settings, project)
    return environment.get_template("report.html").render(layout="file.html", share=share, **values)


def plotted(record: VersionRecord) -> tuple[str, float, float, bool] | None:
    """Name, edits per photo before and after, whether accepted; None: unknown."""
    if (lineage := record.lineage) is None:
        return None
    before, after = lineage.metrics_before.get("edits"), lineage.metrics_after.get("edits")
    if before is None or after is None:
        return None
    return record.name, before, after, record.outcome == "accept"


def expected_saving(steps: Sequence[tuple[int, int, float]]) -> float | None:
    """Edits per photo that `MORE` photos may save, plus a standard error.

    The learning curve is a + b / sqrt(n). What a version saves over its parent
    is measured on the same photos, with little noise: b is fitted to these
    differences by least squares, weighted by photos. The standard deviation of
    a photo is taken as one edit.

    Args:
        steps: of each version the photos that its parent has learned from, its
            own, and the edits per photo that it saves.

    Returns:
        At least 0; None for fewer than two versions with a parent.
    """
    steps = [each for each in steps if 0 < each[0] < each[1]]
    if len(steps) < 2:
        return None
    before, after, saved = np.array(steps, dtype=np.float64).T
    x, latest = before**-0.5 - after**-0.5, after.max()
    information = float((after * x * x).sum())
    slope = max(0.0, float((after * x * saved).sum()) / information) + information**-0.5
    return float(slope * (latest**-0.5 - (latest + MORE) ** -0.5))


def share(value: float | None) -> str:
    """Percent; nothing for None."""
    return "" if value is None else f"{value:.0%}"


def _facts(record: VersionRecord) -> dict[str, Any]:
    row = plotted(record)
    made = record.recorded_at.isoformat(timespec="seconds")
    edits = {"edits_before": row and row[1], "edits_after": row and row[2]}
    verdict = str(record.verdict.get("reason") or record.outcome)
    return {"version": record.name, "state": record.state, "made": made, "verdict": verdict, **edits}


def _sentences(report: Mapping[str, Any]) -> Iterator[str]:
    if (agreement := report["agreement"]) is not None:
        yield f"Of the tags that anybody ticked on a photo of several annotators, all ticked {agreement:.0%}."
    if (saving := report["saving_per_100_photos"]) is not None:
        advice = ": label something else." if report["stop"] else "."
        yield f"{MORE} more photos would save about {saving:.2f} edits per photo{advice}"
    if (drift := report["drift"]) is not None:
        since = f"{drift['photos']:,} photos that {report['served']} has tagged"
        if drift["alarm_at"] is None:
            yield f"No drift: {since} look like those that it learned from (false alarms: {drift['alarm_rate']:.0%})."
        else:
            yield f"Drift: {since} don't look like those that it learned from. Annotate some of them, then train."


def _drift(jobs: JobService, settings: Settings, project: Project, version: Version) -> Drift | None:
    """Of the images that the version has tagged, as far as their tokens are cached."""
    if FILE not in version.files:
        return None
    try:
        bundle = find_bundle(version.lineage.bundle, settings.bundles_dir)
    except NotAvailable:
        return None
    loader = open_image_loader(settings, bundle.preprocessing, version.lineage.encoder_id)
    by_task = jobs.ledger.shown(project.key, version=version.name, limit=2 * MOST_NEW).values()
    shown = sorted((first for first, *_ in by_task), key=lambda each: each.shown_at)
    images = dict.fromkeys(image.sha256 for each in shown for image in each.images)
    cached = map(loader.cached, images)
    tokens = ((each.sha256, each.tokens[0]) for each in cached if each is not None and each.tokens is not None)
    return drift if (drift := drift_since(version.files, tokens)).photos else None
