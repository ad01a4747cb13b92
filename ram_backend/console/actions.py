"""Actions of the admin's page, each of which answers a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ram_backend.errors import InputError
from ram_backend.jobs.job import JobOptions
from ram_backend.jobs.service import JobService
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions, parse_options

FIELDS = ("tags", "threshold", "precision", "top_k", "per_tag")
"""Settings that the form has."""

_PAIR_ENDS = re.compile(r"(?<=[\d.])\s*,\s*")
"""A comma behind a number; those in a tag's name stay."""

_BY_PAGE = "asked for on the admin's page"


def _serve(jobs: JobService, key: ProjectKey, given: Mapping[str, Any]) -> str:
    """Serves and pins another version, or the base; raises as `roll_back`."""
    before = jobs.versions.served(key)
    served, _ = jobs.roll_back(key, str(given.get("version")))
    return f"{served.name} is served instead of {before.name}, and pinned."


def _set_options(jobs: JobService, key: ProjectKey, given: Mapping[str, Any]) -> str:
    """Replaces the settings of the form; empty fields take them back.

    Raises:
        InputError: a field can't be used.
    """
    options: dict[str, object] = {"tags": str(given.get("tags", ""))}
    for name in ("threshold", "precision", "top_k"):
        if text := str(given.get(name, "")).strip():
            options[name] = _number(name, text)
    per_tag: dict[str, float] = {}
    for pair in filter(None, _PAIR_ENDS.split(str(given.get("per_tag", "")).strip())):
        tag, _, value = map(str.strip, pair.rpartition("="))
        per_tag[tag] = _number(f"per_tag[{tag!r}]", value)
    options["per_tag"] = per_tag
    new = {name: value for name, value in options.items() if value not in ("", {})}

    def edited(old: ProjectOptions) -> ProjectOptions:
        others = {name: value for name, value in old.to_json().items() if name not in FIELDS}
        return parse_options({**others, **new}, source="Settings")

    jobs.projects.edit_options(key, edited)
    return "Saved. It holds from the next predictions on: pre-label to renew those that are stored."


def _set_schedule(jobs: JobService, key: ProjectKey, given: Mapping[str, Any]) -> str:
    """Schedules a kind of job; an empty cron text removes its schedule.

    Raises:
        InputError: a field can't be used, or there is nothing to remove.
    """
    kind, cron, zone = (str(given.get(name, "")).strip() for name in ("kind", "cron", "zone"))
    if not cron:
        jobs.schedules.remove(key, kind)
        return f"{kind} is not scheduled any more."
    schedule = jobs.schedules.set(key, kind, cron, zone or "UTC")
    return f"{schedule.kind} is scheduled: next at {schedule.local_due}, by a worker that is running then."


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"Settings: {name}={text[:40]!r} is not a number.") from None


ACTIONS: Mapping[str, Callable[[JobService, ProjectKey, Mapping[str, Any]], str]] = {
    "train": lambda jobs, key, _: str(jobs.request_training_message(key, _BY_PAGE)["message"]),
    "prelabel": lambda jobs, key, _: (
        f"Predictions queued as job {jobs.request_prelabelling(key, JobOptions(('unlabelled',)), _BY_PAGE).job.short};"
        " a worker has Label Studio retrieve them."
    ),
    "engine": lambda jobs, key, _: f"Queued as job {jobs.table.request(key, 'engine', _BY_PAGE).job.short}.",
    "pin": lambda jobs, key, _: (
        f"Pinned to {jobs.versions.pin(key).name}: no training, no new version until it is unpinned."
    ),
    "unpin": lambda jobs, key, _: (
        f"Not pinned any more; {jobs.versions.pin(key, pinned=False).name} is served until a better one is accepted."
    ),
    "serve": _serve,
    "options": _set_options,
    "schedule": _set_schedule,
}
