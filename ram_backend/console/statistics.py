"""Statistics of corrections per tag, day and version, cached."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

from ram_backend.errors import LabelConfigError
from ram_backend.feedback.corrections import corrections_of
from ram_backend.feedback.events import CurrentAnnotation
from ram_backend.feedback.labels import ImageLabels, LabelState, TagCounts, count_tags
from ram_backend.feedback.ledger import Ledger
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.versions.records import BASE

PROJECTS = 64
"""Projects whose figures are in memory."""

PHOTOS = 60
"""Corrected photos per tag, the latest ones."""


@dataclass(frozen=True)
class CorrectedPhoto:
    """A photo on which a tag was added or removed; `score`: shown, in [0, 1]."""

    task: int
    to_name: str
    reference: str | None
    state: LabelState
    score: float | None


@dataclass(frozen=True)
class Statistics:
    """Corrections of one project, per tag and per day.

    Attributes:
        annotations: number of usable annotations.
        per_day: annotations by the day on which they came, UTC.
        tags: the most corrected ones first.
        by_version: what the predictions of a version got, by its name.
        problem: why there are no tags; None: there are.
    """

    annotations: int
    per_day: Mapping[date, int]
    tags: Sequence[TagCounts] = ()
    photos: Mapping[str, Sequence[CorrectedPhoto]] | None = None
    edits_by_day: Mapping[date, dict[str, Any]] = field(default_factory=dict)
    by_version: Mapping[str, tuple[dict[str, Any], Sequence[TagCounts]]] = field(default_factory=dict)
    agreement: float | None = None
    problem: str | None = None

    @property
    def edits(self) -> int:
        """Ticks that people removed and tags that they added."""
        return sum(each.added + each.removed for each in self.tags)

    def photo(self, task: int, to_name: str) -> CorrectedPhoto | None:
        """A corrected photo; None: this task has none."""
        found = (each for photos in (self.photos or {}).values() for each in photos)
        return next((each for each in found if (each.task, each.to_name) == (task, to_name)), None)


def statistics_of(ledger: Ledger, project: Project) -> Statistics:
    """The figures of a project. Waits for the database."""
    return _computed(ledger, project.key, ledger.last_event(project.key), project.label_config)


@lru_cache(PROJECTS)
def _computed(ledger: Ledger, key: ProjectKey, last_event: int, label_config: str) -> Statistics:
    annotations = [each for each in ledger.annotations(key, up_to=last_event) if each.parsed.usable]
    per_day = Counter(each.received_at.date() for each in annotations)
    try:
        schema = parse_label_config(label_config)
    except LabelConfigError as error:
        return Statistics(len(annotations), per_day, problem=str(error))
    corrections = corrections_of(schema, annotations, ledger.shown(key, annotated=True))
    of_version: dict[str, list[ImageLabels]] = defaultdict(list)
    for each in corrections:
        if each.model_versions:
            of_version[next(iter(each.versions), BASE)].append(each)
    return Statistics(
        annotations=len(annotations),
        per_day=per_day,
        tags=count_tags(corrections),
        photos=_photos(corrections),
        edits_by_day=edits_by_day(annotations, corrections),
        by_version={name: (count_edits(group), count_tags(group)) for name, group in of_version.items()},
        agreement=agreement_of(corrections),
    )


def count_edits(corrections: Sequence[ImageLabels]) -> dict[str, Any]:
    """What people did to photos whose tags had been ticked beforehand.

    Returns:
        "photos": their number, by annotation; "edits": ticks that people
            removed and tags that they added; "tags": right ones, each an edit
            in an empty form; "saved": the share of these, None: there are none.
    """
    shown = [each for each in corrections if each.model_versions]
    states = Counter(label.state for each in shown for label in each.states.values())
    edits, tags = states["added"] + states["removed"], states["confirmed"] + states["added"]
    return {"photos": len(shown), "edits": edits, "tags": tags, "saved": 1 - edits / tags if tags else None}


def edits_by_day(
    annotations: Sequence[CurrentAnnotation], corrections: Sequence[ImageLabels]
) -> dict[date, dict[str, Any]]:
    """`count_edits` of each day with photos, by the day of the annotation, UTC."""
    days = {each.parsed.id: (each.parsed.updated_at or each.received_at).date() for each in annotations}
    groups: dict[date, list[ImageLabels]] = defaultdict(list)
    for each in corrections:
        groups[days[each.annotation_ids[0]]].append(each)
    return {day: found for day in sorted(groups) if (found := count_edits(groups[day]))["photos"]}


def agreement_of(corrections: Sequence[ImageLabels]) -> float | None:
    """Share of an image's ticked tags that all annotators ticked; None: one each."""
    by_image: dict[tuple[int, str], list[set[str]]] = defaultdict(list)
    for each in corrections:
        ticked = {tag for tag, label in each.states.items() if label.label}
        by_image[each.task_id, each.to_name].append(ticked)
    several = [sets for sets in by_image.values() if len(sets) > 1]
    if not several:
        return None
    any_, all_ = (sum(len(join(*sets)) for sets in several) for join in (set.union, set.intersection))
    return all_ / any_ if any_ else 1.0


def _photos(corrections: Sequence[ImageLabels]) -> dict[str, list[CorrectedPhoto]]:
    photos: dict[str, list[CorrectedPhoto]] = {}
    for each in sorted(corrections, key=lambda each: each.annotation_ids, reverse=True):
        for tag, label in each.states.items():
            of_tag = photos.setdefault(tag, [])
            if label.state in ("added", "removed") and len(of_tag) < PHOTOS:
                of_tag.append(CorrectedPhoto(each.task_id, each.to_name, each.reference, label.state, label.score))
    return photos
