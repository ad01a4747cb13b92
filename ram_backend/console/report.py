"""Report on a project: quality by version, day and tag, agreement, drift, learning curve."""

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
from ram_backend.models.registry import find_bundle
from ram_backend.projects.project import Project
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import open_image_loader
from ram_backend.training.drift import ALARM_RATE, FILE, MOST_NEW, Drift, drift_since
from ram_backend.versions.directory import Version
from ram_backend.versions.records import BASE, VersionRecord
from ram_backend.versions.table import incumbent_of

MORE = 100
WORTH_IT = 0.01
"""Edits per photo that `MORE` photos have to save; else labelling something else pays more."""


def project_report(jobs: JobService, settings: Settings, project: Project) -> dict[str, Any]:
    """The report as JSON, with an admin's or the served version's thresholds."""
    key, statistics = project.key, statistics_of(jobs.ledger, project)
    served, version = incumbent_of(jobs.versions, settings.versions_dir, key, None)
    records, options = jobs.versions.list(key), project.options()
    own = {} if version is None else dict(zip(version.delta.tags, version.delta.thresholds.tolist(), strict=True))

    def row(tag: TagCounts) -> dict[str, Any]:
        given = options.threshold_of([tag.tag], served.learned)
        figures = {"shown": tag.shown, "precision": tag.precision, "recall": tag.recall}
        return {**asdict(tag), **figures, "threshold": own.get(tag.tag) if given is None else given}

    counts = {each.name: each.lineage.corrections.count for each in records if each.lineage}
    steps = [
        (counts[parent], counts[each.name], figures[1] - figures[2])
        for each in records
        if each.lineage and (figures := plotted(each)) and (parent := each.lineage.parent) in counts
    ]
    saving = expected_saving(steps)
    drift = None if version is None else _drift(jobs, settings, project, version)
    facts = [{"version": BASE, "state": "", "verdict": "the bundle without any version"}, *map(_facts, records)]
    counted = [statistics.by_version.get(each["version"], (count_edits(()), ())) for each in facts]
    return {
        "project": str(key),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "served": served.name,
        "annotations": statistics.annotations,
        "agreement": statistics.agreement,
        "problem": statistics.problem,
        "days": {str(day): edits for day, edits in statistics.edits_by_day.items()},
        "versions": [
            {**fact, **edits, "tags": [*map(row, tags)]} for fact, (edits, tags) in zip(facts, counted, strict=True)
        ],
        "tags": [*map(row, statistics.tags)],
        "saving_per_100_photos": saving,
        "stop": None if saving is None else saving < WORTH_IT,
        "drift": None if drift is None else {**asdict(drift), "alarm_rate": ALARM_RATE},
    }


def report_values(jobs: JobService, settings: Settings, project: Project) -> dict[str, Any]:
    """What `report.html` shows: the report, its plots, tables of tags, and sentences."""
    report = project_report(jobs, settings, project)
    days = {date.fromisoformat(day): each["edits"] / each["photos"] for day, each in report["days"].items()}
    return {
        "report": report,
        "days": bars_per_day(days, max(days, default=datetime.now(UTC).date()), "Edits per photo"),
        "plot": before_and_after([row for each in jobs.versions.list(project.key) if (row := plotted(each))]),
        "tables": [("All", report["tags"]), *((each["version"], each["tags"]) for each in report["versions"])],
        "sentences": list(_sentences(report)),
    }


def html_report(jobs: JobService, settings: Settings, project: Project) -> str:
    """The report as a page without any outside file."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([folder / "templates", folder / "static"]), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(
        layout="file.html", share=share, **report_values(jobs, settings, project)
    )


def plotted(record: VersionRecord) -> tuple[str, float, float, bool] | None:
    """A version's name, edits per photo before and after, whether it was accepted; None: unknown."""
    lineage = record.lineage
    if lineage is None or not {"edits"} <= lineage.metrics_before.keys() & lineage.metrics_after.keys():
        return None
    return record.name, lineage.metrics_before["edits"], lineage.metrics_after["edits"], record.outcome == "accept"


def expected_saving(steps: Sequence[tuple[int, int, float]]) -> float | None:
    """Edits per photo that `MORE` photos may save: a learning curve a + b / sqrt(n), plus a standard error.

    What a version saves over its parent is measured on the same photos, and so
    has far less noise than the edits of each. b is fitted to these differences
    by least squares, weighted by their photos, of which each is taken to have
    a standard deviation of one edit.

    Args:
        steps: of each version the number of photos that its parent has learned
            from, its own, which is larger, and the edits per photo that it
            saves.

    Returns:
        At least 0; None for fewer than two versions that were compared with
        another one.
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
    row, made = plotted(record), record.recorded_at.isoformat(timespec="seconds")
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
    cached = (found for sha256 in list(images)[:MOST_NEW] if (found := loader.cached(sha256)) is not None)
    return drift_since(version.files, ((each.sha256, each.tokens[0]) for each in cached if each.tokens is not None))
